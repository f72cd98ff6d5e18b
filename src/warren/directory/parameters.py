"""The numbers a network agrees on: when documents are made, how close two relays may be.

They stand in the network file, which is how a network begins, and in every consensus, which
is how they change. The defaults are those of a real network; a small or simulated one writes
its own into its network file. A parameter of a later version is left out (a peer that does not
know it cannot follow it), a wrong value is refused.
"""

from collections.abc import Mapping
from typing import Annotated

import msgspec

from warren.config_errors import explain
from warren.errors import ProtocolError

HOUR = 3600
DAY = 24 * HOUR

_Seconds = Annotated[int, msgspec.Meta(ge=1, le=7 * DAY)]


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """Hold the parameters of a network; ``read_parameters`` makes checked ones.

    Intervals are in seconds, windows in cells, bandwidths in bytes per second.
    """

    #: From one consensus to the next, and while no authority has ever seen one (DIR-8).
    consensus_interval_seconds: _Seconds = HOUR
    initial_interval_seconds: _Seconds = 60
    #: No first consensus is made with fewer running relays than this.
    founding_relays: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 3
    #: How long before a consensus becomes valid the votes go out; signatures get the second half.
    voting_seconds: _Seconds = 300
    #: A relay publishes again after this time, and may not before that one (DIR-17).
    descriptor_interval_seconds: _Seconds = 18 * HOUR
    descriptor_upload_seconds: Annotated[int, msgspec.Meta(ge=0, le=DAY)] = 600
    #: Two relays closer than this never share a path (PATH-1); small networks take 24 and 48.
    subnet_v4_prefix: Annotated[int, msgspec.Meta(ge=8, le=32)] = 16
    subnet_v6_prefix: Annotated[int, msgspec.Meta(ge=16, le=128)] = 32
    #: How long after its end a consensus may still be used when there is no other (DIR-8).
    usable_hours: Annotated[int, msgspec.Meta(ge=1, le=7 * 24)] = 24
    #: How wrong a clock may be before documents from the future are refused (DIR-9).
    clock_tolerance_seconds: Annotated[int, msgspec.Meta(ge=0, le=DAY)] = HOUR // 2
    #: Cells in flight on a circuit at its beginning.
    circuit_window: Annotated[int, msgspec.Meta(ge=8, le=64)] = 64
    #: What a relay that nobody has measured counts for at most, whatever it declares (DIR-12).
    unmeasured_bandwidth: Annotated[int, msgspec.Meta(ge=1, le=1 << 40)] = 1_000_000

    def to_mapping(self) -> dict[str, int]:
        """Return all parameters by name, as votes and network files carry them."""
        return {name: getattr(self, name) for name in self.__struct_fields__}


def read_parameters(values: Mapping[str, object]) -> Parameters:
    """Make parameters of `values`, leaving out names not known here.

    Raises ProtocolError when a known one is not an integer within its limits.
    """
    given = dict(values)
    try:
        return msgspec.convert(given, Parameters)
    except msgspec.ValidationError as error:
        raise ProtocolError(f"network parameter {explain(str(error), given, Parameters)}") from None
