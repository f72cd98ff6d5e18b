"""One guard, and how a client's guards are kept over restarts.

Dates are whole seconds and deliberately inexact: the file must not tell when its owner was
where. Whether a guard answers is not kept, a new start tries them all again. What became of its
circuits is, since schema 2 (PATH-4); counts that cannot be right begin anew, as no guard is to be
lost for them.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from warren.directory.parameters import DAY, HOUR
from warren.directory.path_bias import PathBias, Tally
from warren.errors import DirectoryError, NewerSchema, ProtocolError
from warren.identity import PeerId

SCHEMA, OLDEST_SCHEMA = 2, 1
# PATH-2
MOST_SAMPLED = 60
LIFETIME = 120 * DAY
CONFIRMED_LIFETIME = 60 * DAY
UNLISTED_LIFETIME = 20 * DAY


@dataclass(slots=True)
class Guard:
    """Hold one guard of the sample; dates are Unix seconds and deliberately inexact."""

    peer_id: PeerId
    added: float
    confirmed: float | None = None
    unlisted_since: float | None = None
    contacted: float | None = None
    has_served: bool = False
    failures: int = 0
    failing_since: float = 0.0
    failed_at: float = 0.0
    retry_at: float = 0.0
    bias: PathBias = field(default_factory=PathBias)

    @property
    def is_listed(self) -> bool:
        """Tell whether the last consensus had it as a guard."""
        return self.unlisted_since is None

    def is_expired(self, now: float) -> bool:
        """Tell whether the guard has been listed for too long, or unlisted."""
        if self.unlisted_since is not None and now >= self.unlisted_since + UNLISTED_LIFETIME:
            return True
        is_kept = self.confirmed is not None and now < self.confirmed + CONFIRMED_LIFETIME
        return now >= self.added + LIFETIME and not is_kept

    def has_waited(self, now: float) -> bool:
        """Tell whether it is time to try again; a clock that went back ends the wait too."""
        return not self.failed_at <= now < self.retry_at

    def forget_failures(self) -> None:
        """Make the guard one that has not failed."""
        self.failures = 0
        self.retry_at = 0.0

    def was_contacted(self, now: float) -> bool:
        """Tell whether the guard was contacted in the last hour."""
        return self.contacted is not None and now < self.contacted + HOUR


def dump_guards(guards: Iterable[Guard]) -> dict[str, Any]:
    """Return what must outlive the program as plain data, for JSON."""
    return {
        "schema": SCHEMA,
        "guards": [
            {
                "peer": str(guard.peer_id),
                "added": int(guard.added),
                "confirmed": _whole(guard.confirmed),
                "unlisted_since": _whole(guard.unlisted_since),
                # Rounded up, so that it counts for an hour at least and says less.
                "contacted": _next_hour(guard.contacted),
                "builds": _dump(guard.bias.builds),
                "uses": _dump(guard.bias.uses),
            }
            for guard in guards
        ],
    }


def load_guards(data: object) -> list[Guard]:
    """Restore what ``dump_guards`` returned.

    Raises NewerSchema for the state of a later version, DirectoryError for anything else that
    is not its work.
    """
    schema = data.get("schema") if isinstance(data, Mapping) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise NewerSchema(
            f"guards of schema {schema}, this version reads {SCHEMA}: use a newer version, or move "
            "the file away to start with new guards"
        )
    try:
        state = msgspec.convert(data, _State)
        guards = [_restore(fields) for fields in state.guards]
    except (msgspec.ValidationError, ValueError, ProtocolError) as error:
        raise DirectoryError(f"the guards that were kept cannot be read: {error}") from error
    if len({guard.peer_id for guard in guards}) < len(guards):
        raise DirectoryError("the guards that were kept cannot be read: one is there twice")
    return guards


def _whole(date: float | None) -> int | None:
    return None if date is None else int(date)


def _next_hour(date: float | None) -> int | None:
    return None if date is None else HOUR * math.ceil(date / HOUR)


_Date = Annotated[int, msgspec.Meta(ge=0, lt=1 << 40)]


class _GuardState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    peer: Annotated[str, msgspec.Meta(max_length=52)]
    added: _Date
    confirmed: _Date | None
    unlisted_since: _Date | None
    contacted: _Date | None
    builds: Any = None
    uses: Any = None


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: Annotated[int, msgspec.Meta(ge=OLDEST_SCHEMA)]
    guards: Annotated[list[_GuardState], msgspec.Meta(max_length=MOST_SAMPLED)]


def _restore(fields: _GuardState) -> Guard:
    return Guard(
        PeerId.parse(fields.peer),
        float(fields.added),
        confirmed=fields.confirmed,
        unlisted_since=fields.unlisted_since,
        contacted=fields.contacted,
        has_served=fields.confirmed is not None,
        bias=PathBias(_tally(fields.builds), _tally(fields.uses)),
    )


def _dump(tally: Tally) -> list[int]:
    return [tally.tried, tally.succeeded]


def _tally(kept: object) -> Tally:
    try:
        return Tally(*msgspec.convert(kept, tuple[int, int]))
    except ValueError:  # msgspec's are
        return Tally()
