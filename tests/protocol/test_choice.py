"""What a user name asks of its circuit, and what it may not say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.errors import ProtocolError
from warren.identity import PeerId
from warren.protocol.choice import ANYTHING, Choice, read_choice

EXIT = PeerId(bytes(range(32)))

CHOICES = st.builds(
    Choice,
    country=st.none() | st.from_regex(r"[a-z]{2}", fullmatch=True),
    exit_id=st.none() | st.builds(PeerId, st.binary(min_size=32, max_size=32)),
    hops=st.none() | st.integers(2, 5),
    keeps_exit=st.booleans(),
)


@pytest.mark.parametrize(
    ("user", "choice"),
    [
        (b"", ANYTHING),
        (b"me", ANYTHING),
        (b"me+you", ANYTHING),
        (b"c2Vj+cmV0==", ANYTHING),
        (b"me+session=7", Choice(keeps_exit=True)),
        (b"me+country=de", Choice("de")),
        (b"+COUNTRY=De", Choice("de")),
        (b"me+hops=2+session=a", Choice(hops=2, keeps_exit=True)),
        (b"me+exit=%s+country=fr" % str(EXIT).encode(), Choice("fr", EXIT)),
    ],
)
def test_parameters_become_a_choice(user: bytes, choice: Choice) -> None:
    assert read_choice(user) == choice


@pytest.mark.parametrize(
    ("user", "complaint"),
    [
        (b"me+colour=blue", "unknown parameter; known here: country, exit, hops, session"),
        (b"me+country=", "a country is two letters"),
        (b"me+country==", "a country is two letters"),
        (b"me+country=deu", "a country is two letters"),
        (b"me+country=??", "a country is two letters"),
        (b"me+country=\xc3\xa9", "a country is two letters"),
        (b"me+hops=", "hops is a number from 2 to 5"),
        (b"me+hops=1", "hops is a number from 2 to 5"),
        (b"me+hops=6", "hops is a number from 2 to 5"),
        (b"me+hops=03", "hops is a number from 2 to 5"),
        (b"me+hops=\xd9\xa3", "hops is a number from 2 to 5"),
        (b"me+exit=abc", "exit is a peer id of 52 letters and digits"),
        (b"me+exit=" + 52 * b"1", "exit is a peer id of 52 letters and digits"),
        (b"me+session=", "session needs a name"),
        (b"me+hops=2+hops=3", "has the parameter hops twice"),
        (b"me+session=1+SESSION=1", "has the parameter session twice"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_is_expected(user: bytes, complaint: str) -> None:
    with pytest.raises(ProtocolError) as error:
        read_choice(user)

    assert complaint in str(error.value)


@given(st.binary(max_size=300).map(lambda rest: b"+" + rest))
def test_any_user_name_is_read_or_refused_without_a_word_of_it(user: bytes) -> None:
    try:
        said = repr(read_choice(user))
    except ProtocolError as error:
        said = str(error)

    assert said.isascii()


@given(CHOICES)
def test_what_a_choice_says_is_read_again(choice: Choice) -> None:
    parts = [
        f"country={choice.country}" if choice.country else "",
        f"exit={choice.exit_id}" if choice.exit_id else "",
        f"hops={choice.hops}" if choice.hops else "",
        "session=x" if choice.keeps_exit else "",
    ]

    assert read_choice("+".join(["me", *filter(None, parts)]).encode()) == choice


@given(CHOICES, CHOICES)
def test_a_request_goes_before_its_listener(listener: Choice, request: Choice) -> None:
    both = listener.refined_by(request)

    assert both.country == (request.country or listener.country)
    assert both.exit_id == (request.exit_id or listener.exit_id)
    assert both.hops == (request.hops or listener.hops)
    assert both.keeps_exit == (request.keeps_exit or listener.keeps_exit)
