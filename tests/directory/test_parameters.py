import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.directory.parameters import Parameters, read_parameters
from warren.errors import ProtocolError


def test_parameters_come_back_from_their_mapping() -> None:
    parameters = Parameters(consensus_interval_seconds=10, usable_hours=2)

    assert read_parameters(parameters.to_mapping()) == parameters


def test_the_defaults_are_within_their_own_limits() -> None:
    assert read_parameters(Parameters().to_mapping()) == Parameters() == read_parameters({})


def test_a_parameter_of_a_later_version_is_left_out() -> None:
    parameters = read_parameters({"circuit_window": 32, "teleport_seconds": 3})

    assert parameters == Parameters(circuit_window=32)


@given(
    name=st.sampled_from(sorted(Parameters().to_mapping())),
    value=st.sampled_from([-1, 1 << 60, 1 << 70, True, 1.0, "7", None, b"", [], {}]),
)
def test_a_wrong_value_is_refused(name: str, value: object) -> None:
    with pytest.raises(ProtocolError, match=f"{name} is .*, expected a whole number") as caught:
        read_parameters({name: value})

    assert "`" not in str(caught.value)
