import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.directory.address_tables import REFUSED_NETWORKS
from warren.directory.exit_rules import LONGEST_RULE, parse_rule

HOSTS = st.one_of(
    st.sampled_from(["*", "*4", "*6", "private"]),
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)).map(lambda pair: f"{pair[0]}/{pair[1]}"),
    st.tuples(st.ip_addresses(v=6), st.integers(0, 128)).map(lambda p: f"[{p[0]}]/{p[1]}"),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda ip: f"[{ip.exploded}]"),
)
RANGES = st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(sorted)
PORTS = st.one_of(
    st.just(""),
    st.just(":*"),
    st.lists(RANGES, min_size=1, max_size=8).map(
        lambda ranges: ":" + ",".join(f"{low}-{high}" for low, high in ranges)
    ),
)
VERBS = st.sampled_from(["accept", "reject", "accept6", "reject6"])
RULES = st.builds("{} {}{}".format, VERBS, HOSTS, PORTS)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("accept *:*", "accept *:*"),
        ("accept *", "accept *:*"),
        ("  reject   *4:25 ", "reject *4:25"),
        ("accept 1.2.3.4:0080", "accept 1.2.3.4:80"),
        ("accept 1.2.3.4/32:80", "accept 1.2.3.4:80"),
        ("accept 1.2.3.4/16:80-80", "accept 1.2.0.0/16:80"),
        ("reject private:1-1024", "reject private:1-1024"),
        ("accept [2A00:0::1]:443", "accept [2a00::1]:443"),
        ("accept6 [2a00::1]/32", "accept6 [2a00::]/32:*"),
        ("reject6 *:80,443,6660-6669", "reject6 *:80,443,6660-6669"),
    ],
)
def test_a_rule_has_one_spelling(text: str, canonical: str) -> None:
    assert parse_rule(text).text == canonical


@pytest.mark.parametrize(
    "text",
    [
        "", "accept", "accept *:* extra", "allow *:80", "ACCEPT *:80", "accept5 *:80", "accept *:",
        "accept *:0", "accept *:65536", "accept *:80-79", "accept *:80-", "accept *:-80",
        "accept *:80,", "accept *:80,,90", "accept *:http", "accept *:８０", "accept *:+80",
        "accept *:80:90", "accept *5:80", "accept site.example:80", "accept 127.1:80",
        "accept 0177.0.0.1:80", "accept 1.2.3.4/33:80", "accept 1.2.3.4/-1:80",
        "accept 1.2.3.4/:80",
        "accept 1.2.3.4/255.255.0.0:80", "accept 2a00::1:80", "accept [2a00::1:80",
        "accept [2a00::1]x:80", "accept [2a00::1]/129:80", "accept [fe80::1%eth0]:80",
        "accept [1.2.3.4]:80", "accept []:80", "accept [[::]]:80", "accept :80", "accept */8:80",
        "accept *:" + "1," * LONGEST_RULE + "1",
    ],
)  # fmt: skip
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|write|is no rule"):
        parse_rule(text)


def test_private_means_the_table() -> None:
    assert parse_rule("reject private").networks == REFUSED_NETWORKS


def test_accept6_with_an_ipv4_address_matches_nothing() -> None:  # conventions D9
    assert parse_rule("accept6 1.2.3.4:80").networks == ()


@given(RULES)
def test_the_one_spelling_means_the_same(text: str) -> None:
    rule = parse_rule(text)

    assert parse_rule(rule.text) == rule
    assert len(rule.text) <= max(len(text), LONGEST_RULE)


@given(st.text() | RULES.flatmap(lambda rule: st.text().map(lambda tail: rule + tail)))
def test_any_text_is_a_rule_or_a_value_error(text: str) -> None:  # T90
    try:
        rule = parse_rule(text)
    except ValueError:
        return

    assert parse_rule(rule.text) == rule
