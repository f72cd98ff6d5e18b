"""The rules of chaos: what they mean, and what is said of those that mean nothing."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.errors import ConfigError
from warren.lab.chaos import Rule, Verb, check_victims, parse_chaos

RELAYS = ("relay1", "relay2", "exit1")
NAMES = ("authority1", *RELAYS, "proxy")


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("kill middle every 5s", [Rule(Verb.KILL, "middle", 5.0, 5.0)]),
        ("stop guard 10s every 60s", [Rule(Verb.STOP, "guard", 60.0, 60.0, 10.0)]),
        ("stop guard for 10s every 1min", [Rule(Verb.STOP, "guard", 60.0, 60.0, 10.0)]),
        ("cut relay4 once at 500ms", [Rule(Verb.CUT, "relay4", 0.5)]),
        ("cut exit for 3s once at 2s", [Rule(Verb.CUT, "exit", 2.0, None, 3.0)]),
        ("kill any authority every 9s;", [Rule(Verb.KILL, "authority", 9.0, 9.0, None, True)]),
        (
            " kill exit every 10s ;kill any exit once  at 1.5s",
            [Rule(Verb.KILL, "exit", 10.0, 10.0), Rule(Verb.KILL, "exit", 1.5, is_any=True)],
        ),
    ],
)
def test_rules_are_read(text: str, rules: list[Rule]) -> None:
    assert list(parse_chaos(text)) == rules


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rule"),
        (" ; ", "no rule"),
        ("maim guard every 5s", "found 'maim', expected kill, stop or cut"),
        ("kill", "found its end, expected guard"),
        ("kill Guard every 5s", "found 'Guard'"),
        ("kill any guard every 5s", "expected any relay, any exit, any authority"),
        ("kill guard", "expected every TIME, or once at TIME"),
        ("kill guard once 5s", "found '5s'"),
        ("kill guard every", "found its end, expected how often, such as 10s"),
        ("kill guard every 5", "found '5'"),
        ("kill guard every -5s", "found '-5s'"),
        ("kill guard every \N{ARABIC-INDIC DIGIT FIVE}s", "expected how often"),
        ("kill guard every 0s", "expected 0.1 s to 86400 s"),
        ("kill guard every 5s now", "found 'now', expected the end of the rule"),
        ("stop guard every 60s", "expected how long it is stopped"),
        ("stop guard for 60s every 60s", "more than the 60 s that it is away"),
        ("kill guard every 5s, stop guard 1s every 9s", "found '5s,'"),
        ("kill guard every 5s; " * 33, "33 rules, expected 32 at most"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_was_expected(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_chaos(text)

    assert message in str(refusal.value)


@given(st.text(max_size=60))
def test_garbage_is_a_rule_or_an_error(text: str) -> None:
    try:
        rules = parse_chaos(text)
    except ConfigError:
        return
    assert rules


SECONDS = st.integers(1, 10_000).map(lambda tenths: tenths / 10)


@given(
    st.sampled_from([Verb.KILL, Verb.CUT]),
    st.sampled_from(["guard", "middle", "relay7"]),
    SECONDS,
    st.booleans(),
)
def test_a_rule_reads_as_it_is_written(
    verb: Verb, victim: str, seconds: float, is_once: bool
) -> None:
    rule = Rule(verb, victim, seconds, None if is_once else seconds)

    assert parse_chaos(str(rule)) == (rule,)


def test_a_rule_is_due_once_or_again_and_again() -> None:
    once, again = parse_chaos("kill exit once at 4s; kill exit every 5s")

    assert list(once.times()) == [4.0]
    assert list(itertools.islice(again.times(), 3)) == [5.0, 10.0, 15.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kill relay3 every 5s", "there is no relay3, expected one of authority1, relay1"),
        ("kill relay every 5s", "there is no relay"),
        ("cut proxy once at 5s", "only relays can be cut"),
        ("cut any authority once at 5s", "only relays can be cut"),
    ],
)
def test_a_victim_that_is_not_in_the_lab_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_victims(parse_chaos(text), NAMES, RELAYS)


def test_positions_kinds_and_names_are_victims() -> None:
    rules = parse_chaos("kill guard every 5s; kill any exit every 5s; cut relay2 once at 3s")

    check_victims(rules, NAMES, RELAYS)
