import ipaddress
import random
import time
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.imagined import random_rule
from warren.addresses import Address, IPAddress, parse_ip
from warren.directory.exit_policy import (
    MOST_RULES,
    PROFILES,
    UDP_PROFILES,
    ExitPolicy,
    check_target,
    configured_policy,
    configured_udp_policy,
)
from warren.errors import ConfigError

PUBLIC = ipaddress.ip_address("93.184.216.34")
PUBLIC_V6 = ipaddress.ip_address("2a00::1")


def ip(text: str) -> IPAddress:
    found = parse_ip(text)
    assert found is not None
    return found


def nothing_is_own(_: IPAddress) -> None:
    return None


# A second reading of the grammar, straight from its description, to hold the compiled one against.


def model_matches(rule: str, address: IPAddress, port: int) -> bool:
    verb, pattern = rule.split()
    host, _, ports = pattern.rpartition(":")
    if verb.endswith("6") and address.version == 4:
        return False
    if host == "*":
        is_inside = True
    elif host in ("*4", "*6"):
        is_inside = host[1] == str(address.version)
    else:
        is_inside = address in ipaddress.ip_network(host.replace("[", "").replace("]", ""))
    return is_inside and any(
        int(piece.split("-")[0]) <= port <= int(piece.split("-")[-1])
        for piece in ports.replace("*", "1-65535").split(",")
    )


def model_allows(rules: Iterable[str], address: IPAddress, port: int) -> bool:
    for rule in rules:
        if model_matches(rule, address, port):
            return rule.startswith("accept")
    return False


def test_a_hundred_thousand_questions_are_answered_as_the_rules_say() -> None:  # T64
    rng = random.Random(64)
    for _ in range(1000):
        rules = [random_rule(rng) for _ in range(rng.randint(0, 7))]
        enforced = ExitPolicy.parse(rules)
        published = ExitPolicy.parse(enforced.rules)
        for _ in range(50):
            port = rng.randint(1, 55)
            four = ipaddress.IPv4Address(rng.getrandbits(32))
            six = ipaddress.IPv6Address(rng.getrandbits(128))
            for address in (four, six):
                expected = model_allows(rules, address, port)
                assert enforced.allows(address, port) == expected
                assert enforced.glance_at(port).allows(address) == expected
                assert published.allows(address, port) == expected


def open_ports(summary: str) -> set[int]:
    """Read a summary as a reader of a descriptor would."""
    verb, ports = summary.split()
    if verb == "reject":
        return set()
    pieces = ports.replace("*", "1-65535").split(",")
    bounds = [(int(piece.split("-")[0]), int(piece.split("-")[-1])) for piece in pieces]
    return {port for low, high in bounds for port in range(low, high + 1)}


def test_the_summary_is_the_enforced_policy() -> None:  # T64, EXT-7
    rng = random.Random(7)
    for _ in range(80):
        rules = [random_rule(rng) for _ in range(rng.randint(0, 7))]
        policy = ExitPolicy.parse(rules)
        summed_up = open_ports(policy.summary)
        for port in range(1, 55):
            sample = [ipaddress.IPv4Address(i << 28 | 1) for i in range(16)]
            accepted = sum(model_allows(rules, address, port) for address in sample)
            sample_v6 = [ipaddress.IPv6Address(0x2 << 124 | i << 121 | 1) for i in range(16)]
            accepted_v6 = sum(model_allows(rules, address, port) for address in sample_v6)
            expected = accepted >= 8 or accepted_v6 >= 8
            assert policy.might_allow(port) == (port in summed_up) == expected


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_is_in_its_one_spelling_and_fits_a_descriptor(name: str) -> None:
    policy = ExitPolicy.parse(PROFILES[name])

    assert policy.rules == PROFILES[name]
    assert len(policy.rules) <= MOST_RULES
    assert all(len(rule) <= 256 for rule in policy.rules)
    assert policy.warnings == ()
    assert policy.is_exit == (name != "none")


@pytest.mark.parametrize(
    ("name", "accepted", "rejected"),
    [
        ("web", {80, 443}, {1, 22, 25, 79, 81, 465, 587, 8080, 65535}),
        (
            "reduced",
            {20, 22, 80, 443, 563, 991, 3389, 6667, 64738},
            {25, 119, 465, 587, 6881, 9001},
        ),
        (
            "open",
            {1, 22, 80, 443, 465, 587, 9001, 65535},
            {25, 119, 135, 139, 445, 4666, 6881, 6999},
        ),
        ("none", set(), {1, 22, 25, 80, 443, 465, 587}),
    ],
)
def test_the_profiles_open_what_they_say(  # T66
    name: str, accepted: set[int], rejected: set[int]
) -> None:
    policy = ExitPolicy.parse(PROFILES[name])

    for address in (PUBLIC, PUBLIC_V6):
        assert {port for port in accepted | rejected if policy.allows(address, port)} == accepted
    assert {port for port in accepted | rejected if policy.might_allow(port)} == accepted


def test_the_open_profile_rejects_exactly_tors_list() -> None:
    listed = [25, 119, *range(135, 140), 445, 563, 1214, *range(4661, 4667), *range(6346, 6430)]
    listed += [6699, *range(6881, 7000)]

    opened = open_ports(ExitPolicy.parse(PROFILES["open"]).summary)

    assert opened == set(range(1, 65536)) - set(listed)


@pytest.mark.parametrize(
    ("name", "count"), [("web", 1), ("reduced", 5), ("open", 65529), ("none", 0)]
)
def test_the_profiles_for_datagrams_reflect_nothing(name: str, count: int) -> None:
    opened = open_ports(ExitPolicy.parse(UDP_PROFILES[name]).summary)

    assert len(opened) == count
    assert not opened & {53, 123, 161, 389, 1900, 11211}


@pytest.mark.parametrize(
    ("udp", "tcp", "opened"),
    [
        (None, "web", {443}),
        (None, "reduced", {443, 3478, 3479, 3480, 3481}),
        (None, "none", set()),
        (None, ("accept *:*",), set()),
        ("none", "open", set()),
        ("web", ("accept *:80",), {443}),
        (("accept *:50-60",), "web", {50, 51, 52, 54, 55, 56, 57, 58, 59, 60}),
        (("accept *:53", "accept *:120-124"), "web", {53, 120, 121, 122, 124}),
        (("accept *:53,123,161,389,1900,11211",), "web", {53, 123, 161, 389, 1900, 11211}),
        (("reject *:*",), "web", set()),
    ],
)
def test_what_reflects_is_opened_only_by_its_name(
    udp: str | tuple[str, ...] | None, tcp: str | tuple[str, ...], opened: set[int]
) -> None:
    """EXT-15, and what goes with a profile (conventions D0)."""
    assert open_ports(configured_udp_policy(udp, tcp).summary) == opened


def test_no_rule_means_reject_and_port_zero_is_never_open() -> None:
    assert not ExitPolicy.parse([]).allows(PUBLIC, 80)
    assert not ExitPolicy.parse(["accept *:*"]).allows(PUBLIC, 0)
    assert not ExitPolicy.parse(["accept *:*"]).might_allow(0)


def test_the_first_rule_that_matches_decides() -> None:
    policy = ExitPolicy.parse(["reject 93.184.0.0/16:80", "accept *:80", "reject *:80"])

    assert not policy.allows(PUBLIC, 80)
    assert policy.allows(ip("8.8.8.8"), 80)


def test_of_two_rules_for_the_same_network_the_first_decides() -> None:
    policy = ExitPolicy.parse(["reject 93.184.0.0/16:*", "accept 93.184.0.0/16:80", "accept *:80"])

    assert not policy.allows(PUBLIC, 80)


def test_what_a_rule_before_it_hides_makes_no_exit() -> None:
    assert not ExitPolicy.parse(["reject *:*", "accept 1.2.3.4:80"]).is_exit
    assert ExitPolicy.parse(["reject *4:*", "accept *:80"]).is_exit


def test_a_port_that_is_open_for_few_addresses_is_not_for_names() -> None:
    policy = ExitPolicy.parse(["accept 93.184.216.0/24:80", "reject 1.0.0.0/8:443", "accept *:443"])

    assert not policy.might_allow(80)
    assert policy.opens(80)
    assert policy.might_allow(443)
    assert policy.summary == "accept 443"
    assert not policy.opens(22)


def test_ipv6_alone_is_enough_for_names() -> None:
    assert ExitPolicy.parse(["accept6 *:443"]).might_allow(443)


def test_summaries_join_what_touches() -> None:
    policy = ExitPolicy.parse(["accept *:80", "accept *:81-90", "reject *:85", "accept *:100"])

    assert policy.summary == "accept 80-90,100"
    assert ExitPolicy.parse(["accept *:*"]).summary == "accept *"
    assert ExitPolicy.parse(["reject *:*"]).summary == "reject *"


def test_a_rule_without_effect_is_a_warning() -> None:
    policy = ExitPolicy.parse(["accept6 1.2.3.4:80", "accept *:443"])

    assert policy.warnings == ("accept6 1.2.3.4:80",)


def test_too_many_rules_are_refused() -> None:  # DIR-3, T52
    with pytest.raises(ValueError, match="65 policy rules, expected at most 64"):
        ExitPolicy.parse(["accept *:80"] * 65)


def test_the_largest_policy_a_descriptor_can_hold_is_cheap() -> None:  # T52
    numbers = iter(range(1, 65535, 2))
    rules = [
        f"accept 1.2.{i}.0/24:" + ",".join(str(next(numbers)) for _ in range(35)) for i in range(32)
    ] + [f"reject 9.{i}.0.0/16:1-65534" for i in range(32)]
    assert sum(map(len, rules)) > 6000
    began = time.process_time()

    policy = ExitPolicy.parse(rules)
    policy.allows(PUBLIC, 80)

    assert time.process_time() - began < 0.5


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_can_be_configured_by_its_name(name: str) -> None:
    assert configured_policy(name).rules == PROFILES[name]


def test_port_25_must_be_named_to_be_open() -> None:  # EXT-7, T66
    wide = configured_policy(["accept *:*"])
    ranged = configured_policy(["accept *:1-1024"])
    named = configured_policy(["accept 93.184.216.34:25,587", "reject *:*"])

    assert not wide.allows(PUBLIC, 25)
    assert wide.allows(PUBLIC, 26)
    assert not ranged.allows(PUBLIC, 25)
    assert named.allows(PUBLIC, 25)
    assert not named.allows(ip("8.8.8.8"), 25)


@pytest.mark.parametrize("policy", ["webb", ["accept *:http"], ["accept *:80"] * 65])
def test_a_users_mistake_is_a_config_error(policy: str | list[str]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        configured_policy(policy)


# check_target

OPEN = ExitPolicy.parse(["accept *:*"])


def test_a_public_target_passes() -> None:
    assert check_target(Address(str(PUBLIC), 80), OPEN, nothing_is_own) is None
    assert check_target(Address(str(PUBLIC_V6), 80), OPEN, nothing_is_own) is None


def test_the_table_comes_before_the_policy_and_the_policy_before_what_is_own() -> None:
    def everything_is_own(_: IPAddress) -> str:
        return "own"

    web = ExitPolicy.parse(PROFILES["web"])

    assert (
        check_target(Address("10.0.0.1", 22), web, everything_is_own)
        == "never allowed: a private network"
    )
    assert (
        check_target(Address(str(PUBLIC), 22), web, everything_is_own)
        == "the exit policy rejects port 22"
    )
    assert check_target(Address(str(PUBLIC), 80), web, everything_is_own) == "never allowed: own"


@pytest.mark.parametrize("text", ["127.0.0.1", "::1", "169.254.169.254", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("port", [1, 80, 443, 65535])
def test_the_table_holds_for_every_port_and_policy(text: str, port: int) -> None:  # T01
    assert check_target(Address(text, port), OPEN, nothing_is_own) is not None


def test_port_zero_is_refused() -> None:
    assert check_target(Address(str(PUBLIC), 0), OPEN, nothing_is_own) == "port 0"


def test_what_is_own_is_looked_for_inside_an_address_too() -> None:
    def own(address: IPAddress) -> str | None:
        return "this host" if address == PUBLIC else None

    assert (
        check_target(Address("2a00::5efe:93.184.216.34", 80), OPEN, own)
        == "never allowed: this host"
    )


def test_through_a_nat64_the_rules_are_those_for_the_address_behind_it() -> None:
    nat64 = [ipaddress.IPv6Network("64:ff9b::/96")]
    policy = ExitPolicy.parse(["reject 93.184.0.0/16:*", "accept *4:80"])

    def check(text: str) -> str | None:
        return check_target(Address(text, 80), policy, nothing_is_own, nat64=nat64)

    assert check("64:ff9b::93.184.216.34") is not None
    assert check("64:ff9b::8.8.8.8") is None
    assert check("64:ff9b::10.0.0.1") is not None


def test_an_allowed_target_is_exactly_this_address_and_port() -> None:  # EXT-16
    def own(_: IPAddress) -> str:
        return "this host"

    allowed = frozenset({Address("127.0.0.1", 8080), Address("::1", 8080)})
    web = ExitPolicy.parse(PROFILES["web"])

    def check(text: str, port: int) -> str | None:
        return check_target(Address(text, port), web, own, allowed)

    assert check("127.0.0.1", 8080) is None
    assert check("::1", 8080) is None
    assert check("127.0.0.1", 8081) is not None
    assert check("127.0.0.2", 8080) is not None
    assert check("::ffff:127.0.0.1", 8080) is not None


@given(st.ip_addresses(), st.integers(0, 65535))
def test_nothing_passes_that_the_policy_rejects(address: IPAddress, port: int) -> None:
    web = ExitPolicy.parse(PROFILES["web"])

    reason = check_target(Address(str(address), port), web, nothing_is_own)

    assert reason is not None or port in (80, 443)
