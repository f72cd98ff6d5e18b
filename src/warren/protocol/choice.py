"""What a request may ask of its circuit: a country, an exit, a number of relays, a session.

Wishes ride behind the user name, ``anything+country=de+session=7+hops=2`` (conventions D0), or
stand in the configuration of a listener, whose streams then all have them. They are strict: a wish
that cannot be read or cannot be met is an error, and nothing else is given in its place.
"""

import re
from dataclasses import dataclass

from warren.errors import refuse
from warren.identity import PeerId

FEWEST_HOPS, MOST_HOPS = 2, 5

# A part that ends in a bare ``=`` is somebody's random base64, unless it begins with our keys.
_PARAMETER = re.compile(rb"([^=]+)=(?!=?\Z)")
_KEYS = (b"country", b"exit", b"hops", b"session")
_COUNTRY = re.compile(r"[a-z]{2}\Z")


@dataclass(frozen=True, slots=True)
class Choice:
    """Hold what is asked for; None and False ask for nothing.

    ``country`` is two lower-case letters (ISO 3166-1), ``hops`` counts the relays of the path. A
    stream that ``keeps_exit`` leaves where the earlier ones of its isolation did.
    """

    country: str | None = None
    exit_id: PeerId | None = None
    hops: int | None = None
    keeps_exit: bool = False

    def __post_init__(self) -> None:
        if self.country is not None and not _COUNTRY.match(self.country):
            refuse("a country is two letters of ISO 3166, as in country=de")
        if self.hops is not None and not FEWEST_HOPS <= self.hops <= MOST_HOPS:
            refuse(f"hops is a number from {FEWEST_HOPS} to {MOST_HOPS}")

    def refined_by(self, other: "Choice") -> "Choice":
        """Return all that `other` asks for, and what this one does where `other` is silent."""
        if other == ANYTHING:
            return self
        return Choice(
            other.country or self.country,
            other.exit_id or self.exit_id,
            other.hops or self.hops,
            other.keeps_exit or self.keeps_exit,
        )

    @property
    def binds_exit(self) -> bool:
        """Tell whether only one exit will do."""
        return self.keeps_exit or self.exit_id is not None


#: No wish at all, as most have it.
ANYTHING = Choice()


def read_choice(user: bytes) -> Choice:
    """Return what the ``+key=value`` parameters in the user name `user` ask for.

    Raises ProtocolError for one that is unknown, malformed or there twice; its text is ours, with
    nothing of the user name in it.
    """
    if b"+" not in user:
        return ANYTHING
    wishes: dict[str, str] = {}
    for part in user.split(b"+")[1:]:
        key, equals, value = part.partition(b"=")
        key = key.lower()
        if key not in _KEYS or not equals:
            if _PARAMETER.match(part):
                names = ", ".join(known.decode() for known in _KEYS)
                refuse(f"the user name has an unknown parameter; known here: {names}")
            continue
        name = key.decode("ascii")
        if name in wishes:
            refuse(f"the user name has the parameter {name} twice")
        wishes[name] = value.decode("ascii", "replace")
    if not wishes:
        return ANYTHING
    return Choice(
        country=wishes["country"].lower() if "country" in wishes else None,
        exit_id=_read_exit(wishes["exit"]) if "exit" in wishes else None,
        hops=_read_hops(wishes["hops"]) if "hops" in wishes else None,
        keeps_exit=_read_session(wishes["session"]) if "session" in wishes else False,
    )


def _read_exit(text: str) -> PeerId:
    try:
        return PeerId.parse(text.lower())
    except ValueError:
        refuse("exit is a peer id of 52 letters and digits, as warren network relays prints it")


def _read_hops(text: str) -> int:
    if not re.fullmatch(r"[0-9]", text, re.ASCII):
        refuse(f"hops is a number from {FEWEST_HOPS} to {MOST_HOPS}")
    return int(text)


def _read_session(text: str) -> bool:
    # What it is called needs no reading: the whole user name is the isolation key.
    if not text:
        refuse("session needs a name, as in session=7")
    return True
