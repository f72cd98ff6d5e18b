import hashlib
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.directories import authority_hop, network_of
from warren.addresses import Address
from warren.directory.network_file import (
    Authority,
    NetworkFile,
    create_network,
    parse_network_file,
    render_network_file,
    renew_checksum,
)
from warren.directory.parameters import Parameters
from warren.errors import ConfigError

NETWORK = network_of(3, testing=False)
TEXT = render_network_file(NETWORK)
FOUNDING = bytes(32)


def hand_edited(old: str, new: str) -> str:
    assert old in TEXT
    return renew_checksum(TEXT.replace(old, new, 1))


@pytest.mark.parametrize(
    "network",
    [
        NETWORK,
        network_of(1, name="One-man_show 2.0"),
        network_of(5, threshold=4, parameters=Parameters(subnet_v4_prefix=24)),
    ],
)
def test_a_network_file_comes_back_from_its_text(network: NetworkFile) -> None:
    assert parse_network_file(render_network_file(network)) == network


def test_the_network_id_is_the_hash_of_name_and_founding_bytes() -> None:  # protocol §1
    network = network_of(name="example")

    expected = hashlib.sha256(b"warren network 1" + b"example" + network.founding).digest()
    assert network.network_id == expected


def test_authorities_and_threshold_may_change_under_one_network_id() -> None:
    assert network_of(3).network_id == network_of(5, threshold=5).network_id


def test_more_than_half_must_agree_unless_told_otherwise() -> None:
    assert [network_of(count).threshold for count in (1, 2, 3, 4, 5)] == [1, 2, 2, 3, 3]


@pytest.mark.parametrize("digit", range(0, 64, 7))
def test_a_changed_digit_is_damage_and_the_error_says_what_to_do(digit: int) -> None:
    at = TEXT.index('founding = "') + len('founding = "') + digit
    damaged = TEXT[:at] + ("0" if TEXT[at] != "0" else "1") + TEXT[at + 1 :]

    with pytest.raises(ConfigError, match="warren network checksum"):
        parse_network_file(damaged)


def test_comments_and_layout_may_change_without_a_new_checksum() -> None:
    text = "# mine\n" + TEXT.replace(" = ", "   =   ").replace("\n[", "\n\n\n[")

    assert parse_network_file(text) == NETWORK


def test_a_change_by_hand_counts_with_a_new_checksum() -> None:
    text = hand_edited("usable_hours = 24", "usable_hours = 48")

    assert parse_network_file(text).parameters.usable_hours == 48


def test_a_file_without_checksum_gets_one() -> None:
    lines = [line for line in TEXT.splitlines() if not line.startswith("checksum")]
    text = "\n".join(lines)

    with pytest.raises(ConfigError, match="checksum"):
        parse_network_file(text)
    assert parse_network_file(renew_checksum(text)) == NETWORK


def test_a_parameter_of_a_later_version_is_left_out() -> None:
    text = hand_edited("[parameters]", "[parameters]\nteleport_seconds = 5")

    assert parse_network_file(text) == NETWORK


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "usable_hours = 24",
            "usable_hours = 0",
            "usable_hours is 0, expected a whole number from",
        ),
        ("usable_hours = 24", 'usable_hours = "x"', "usable_hours is 'x', expected a whole number"),
        ("threshold = 2", "threshold = 1", "more than half"),
        ("threshold = 2", "threshold = 4", "more than half"),
        ("threshold = 2", 'threshold = "2"', "threshold is '2', expected a whole number"),
        ("testing = false", "tested = false", "has no key 'tested': did you mean 'testing'"),
        ("testing = false", "testing = 1979-05-27", "a date or time, expected text and"),
        ('name = "example"', 'name = "../etc"', "no name"),
        ('name = "example"', 'name = ""', "no name"),
        ('"198.51.100.1:9001"', '"example.org:9001"', "not a host name"),
        ('"198.51.100.1:9001"', '"198.51.100.1"', "HOST:PORT"),
        ('"198.51.100.1:9001"', '"198.51.100.2:9001"', "equal addresses"),
        ('name = "authority 0"', 'name = "authority 1"', "equal names"),
        ('suites = ["aesgcm", "chachapoly"]', 'suites = ["rot13"]', "rot13"),
        ('suites = ["aesgcm", "chachapoly"]', "suites = []", "suites"),
        ('peer_id = "', 'peer_id = "a', "no peer id"),
        ('founding = "', 'founding = "00', "32 bytes"),
        ('founding = "', 'founding = "xy', "hex"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_network_file(hand_edited(old, new))


def test_fewer_than_three_authorities_are_for_testing_only() -> None:  # DIR-4
    assert network_of(1, testing=True).threshold == 1
    for count in (0, 1, 2):
        with pytest.raises(ConfigError, match="testing"):
            network_of(count, testing=False)


@pytest.mark.parametrize(("count", "threshold"), [(3, 1), (3, 4), (4, 2), (5, 2), (1, 0)])
def test_a_threshold_of_half_or_less_is_refused(count: int, threshold: int) -> None:  # DIR-4
    with pytest.raises(ConfigError, match="more than half"):
        network_of(count, threshold=threshold)


def test_one_key_under_two_names_is_refused() -> None:  # DIR-4: keys are counted
    hop = replace(authority_hop(1), address=Address("192.0.2.9", 1))
    authorities = [Authority(f"a{n}", authority_hop(n)) for n in range(2)] + [Authority("x", hop)]

    with pytest.raises(ConfigError, match="equal peer ids"):
        create_network("example", FOUNDING, authorities)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("usable_hours = 24", "usable_hours = 0"),
        ("usable_hours = 24", "usable_hours = 1" + "0" * 30),
        ("threshold = 2", "threshold = 1" + "0" * 30),
        ("threshold = 2", "threshold = []"),
        ("[parameters]", "[parameter]"),
        ('suites = ["aesgcm", "chachapoly"]', 'suites = ["aesgcm", 3]'),
        ('suites = ["aesgcm", "chachapoly"]', "suites = [1979-05-27]"),
        ('founding = "', 'founding = "x'),
        ("testing = false", "testing"),
    ],
)
def test_no_mistake_is_told_in_the_words_of_a_library(old: str, new: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_network_file(hand_edited(old, new))

    assert not re.search(r"`\$|Expected `|JSON|fromhex|datetime|\(at line", str(caught.value))


@given(st.text(max_size=200))
def test_garbage_is_a_mistake_of_the_user(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_network_file(text)


@given(st.data())
def test_damage_anywhere_never_changes_the_network_unnoticed(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(TEXT) - 1))
    text = TEXT[:at] + data.draw(st.text(max_size=3)) + TEXT[at + data.draw(st.integers(0, 3)) :]

    try:
        network = parse_network_file(text)
    except ConfigError:
        return
    assert network == NETWORK
