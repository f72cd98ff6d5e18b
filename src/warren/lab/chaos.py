"""What shall go wrong in a lab, and when: a small language, read strictly.

::

    kill middle every 5s; stop guard 10s every 60s; cut exit once at 20s

    rules = rule { ";" rule }
    rule  = verb victim [ ["for"] time ] when
    verb  = "kill" | "stop" | "cut"
    when  = "every" time | "once at" time
    time  = a number and "ms", "s" or "min"

A victim is a member by its name (relay4), the ``guard``, ``middle`` or ``exit`` of the circuit that
the proxy uses, or one drawn at random: ``any relay``, ``any exit``, ``any authority``. Killed, it
comes back after its time, or that of the lab; stopped (SIGSTOP), it must be told for how long; cut,
its connections are reset, or for a time nothing comes through. Doing it is ``havoc``'s.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NoReturn

from warren.errors import ConfigError

MOST_RULES = 32
LEAST_SECONDS, MOST_SECONDS = 0.1, 86400.0
POSITIONS = ("guard", "middle", "exit")
KINDS = ("relay", "exit", "authority")
_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0}
_TIME = re.compile(r"([0-9]{1,7}(?:\.[0-9]{1,3})?)(ms|s|min)")
_NAME = re.compile(r"[a-z]+[0-9]*")
_EXAMPLE = "such as: kill middle every 5s"


class Verb(Enum):
    """Name what is done to a victim."""

    KILL = "kill"
    STOP = "stop"
    CUT = "cut"


@dataclass(frozen=True)
class Rule:
    """Hold one rule; times are in seconds.

    ``victim`` is a name, or a position in the proxy's circuit; with ``is_any`` it is a role.
    ``seconds`` is how long the victim is away, None for the usual. It is due `first` seconds after
    the start, and then every ``interval`` where there is one.
    """

    verb: Verb
    victim: str
    first: float
    interval: float | None = None
    seconds: float | None = None
    is_any: bool = False

    def times(self) -> Iterator[float]:
        """Yield when it is due, in seconds after the start."""
        due = self.first
        while True:
            yield due
            if self.interval is None:
                return
            due += self.interval

    def __str__(self) -> str:
        words = [self.verb.value, *(["any"] if self.is_any else []), self.victim]
        words += [] if self.seconds is None else ["for", f"{self.seconds:g}s"]
        words += ["once", "at"] if self.interval is None else ["every"]
        return " ".join([*words, f"{self.first:g}s"])


def parse_chaos(text: str) -> tuple[Rule, ...]:
    """Read the rules in `text`; raise ConfigError that says what was found and what is expected."""
    rules = tuple(_parse_rule(part.strip()) for part in text.split(";") if part.strip())
    if not rules:
        raise ConfigError(f"no rule in {text[:40]!r}: expected one or more, {_EXAMPLE}")
    if len(rules) > MOST_RULES:
        raise ConfigError(f"{len(rules)} rules, expected {MOST_RULES} at most")
    return rules


class _Words:
    """Own the words of one rule that are still to be read."""

    def __init__(self, rule: str) -> None:
        self._rule = rule
        self._words = rule.split()

    @property
    def next(self) -> str:
        return self._words[0] if self._words else ""

    def take(self) -> str:
        return self._words.pop(0) if self._words else ""

    def take_if(self, word: str) -> bool:
        if self.next != word:
            return False
        self.take()
        return True

    def take_seconds(self, what: str) -> float:
        word = self.take()
        match = _TIME.fullmatch(word)
        if match is None:
            self.fail(word, f"{what}, such as 10s, 500ms or 2min")
        seconds = float(match[1]) * _UNITS[match[2]]
        if not LEAST_SECONDS <= seconds <= MOST_SECONDS:
            self.fail(word, f"{LEAST_SECONDS:g} s to {MOST_SECONDS:g} s")
        return seconds

    def fail(self, found: str, expected: str) -> NoReturn:
        what = repr(found[:40]) if found else "its end"
        raise ConfigError(f"in the rule {self._rule[:80]!r}: found {what}, expected {expected}")


def _parse_rule(text: str) -> Rule:
    words = _Words(text)
    verbs = [verb.value for verb in Verb]
    if words.next not in verbs:
        words.fail(words.next, f"{', '.join(verbs[:-1])} or {verbs[-1]}")
    verb = Verb(words.take())
    is_any = words.take_if("any")
    victim = words.take()
    if is_any and victim not in KINDS:
        words.fail(victim, f"any {', any '.join(KINDS)}")
    if not _NAME.fullmatch(victim):
        words.fail(victim, f"{', '.join(POSITIONS)}, any {', any '.join(KINDS)}, or a name")
    seconds = None
    if words.take_if("for") or words.next[:1].isdigit():
        seconds = words.take_seconds("how long")
    elif verb is Verb.STOP:
        words.fail(words.next, "how long it is stopped, as in: stop guard 10s every 60s")
    if words.take_if("every"):
        first = words.take_seconds("how often")
        interval: float | None = first
        if seconds is not None and seconds >= first:
            words.fail(f"every {first:g}s", f"more than the {seconds:g} s that it is away")
    else:
        if not (words.take_if("once") and words.take_if("at")):
            words.fail(words.next, "every TIME, or once at TIME")
        first, interval = words.take_seconds("when"), None
    if words.next:
        words.fail(words.next, "the end of the rule, or a semicolon before the next")
    return Rule(verb, victim, first, interval, seconds, is_any)


def check_victims(rules: tuple[Rule, ...], names: tuple[str, ...], lines: tuple[str, ...]) -> None:
    """Raise ConfigError when a rule names nobody of `names`, or cuts one without a line."""
    for rule in rules:
        if not (rule.is_any or rule.victim in POSITIONS or rule.victim in names):
            raise ConfigError(
                f"in the rule {str(rule)!r}: there is no {rule.victim}, expected one of "
                f"{', '.join(names)}, or {', '.join(POSITIONS)}"
            )
        if rule.verb is Verb.CUT and rule.victim in names and rule.victim not in lines:
            raise ConfigError(
                f"in the rule {str(rule)!r}: only relays can be cut, and {rule.victim} is none"
            )
        if rule.verb is Verb.CUT and rule.is_any and rule.victim == "authority":
            raise ConfigError(f"in the rule {str(rule)!r}: only relays can be cut")
