from ipaddress import ip_address, ip_network

import pytest

from warren.addresses import Address
from warren.protocol import front
from warren.protocol.front import Failure
from warren.roles.gate import Gate, lets_in


@pytest.mark.parametrize(
    ("target", "objection"),
    [
        ("a.example:80", None),
        ("5.5.5.5:80", None),
        ("a.example:0", front.PORT_ZERO),
        ("10.0.0.1:80", front.INTERNAL_ADDRESS),
        ("[fd00::1]:80", front.INTERNAL_ADDRESS),
        ("printer:80", front.INTERNAL_NAME),
        ("x.onion:80", front.ONION_SERVICE),
    ],
)
def test_internal_targets_are_refused(target: str, objection: Failure | None) -> None:  # FE-8
    assert Gate().objection_to_target(Address.parse(target)) is objection


def test_an_exemption_is_a_place_for_streams_and_a_host_for_questions() -> None:  # EXT-16
    gate = Gate([Address("127.0.0.1", 8000)])

    assert gate.objection_to_target(Address("127.0.0.1", 8000)) is None
    assert gate.objection_to_target(Address("127.0.0.1", 8001)) is front.INTERNAL_ADDRESS
    assert gate.objection_to_subject(Address("127.0.0.1", 0)) is None
    assert gate.objection_to_subject(Address("127.0.0.2", 0)) is front.INTERNAL_ADDRESS


@pytest.mark.parametrize(
    ("host", "is_let_in"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("192.168.1.7", True),
        ("::ffff:192.168.1.7", True),
        ("192.168.2.7", False),
        ("2a00::1", False),
    ],
)
def test_this_machine_and_those_allowed_come_in(host: str, is_let_in: bool) -> None:  # FE-1
    assert lets_in(ip_address(host), [ip_network("192.168.1.0/24")]) is is_let_in
