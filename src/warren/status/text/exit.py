"""What the page of an exit has besides that of a relay: what it opened for others, and what not."""

from warren.status.text.page import Row
from warren.status.text.told import Told, phrases
from warren.status.text.units import amount, tally, together

_MOST_REASONS = 6
#: Reasons as they are counted (``errors.EndReason``), and what people call them.
_REASONS = {
    "exit_policy": "not allowed here",
    "resolve_failed": "no such name",
    "connect_refused": "the target refused",
    "timeout": "the target did not answer",
    "no_route": "no way to the target",
    "resource_limit": "too many at a time",
    "hibernating": "while ending",
    "single hop": "not over three relays",
    "misc": "for another reason",
    "internal": "the system failed",
}
_MOVED = ("sent", "received")
_NAMES = (
    ("lookups", "question{s} to the DNS"),
    ("from_cache", "answer{s} known already"),
    ("failed", "failed"),
)


def exit_rows(told: Told) -> list[Row]:
    """Return the rows of an exit in the document `told`; no target is in it."""
    targets, held = told.part("exit"), told.part("held")
    return [
        Row("Opened", _opened(targets)),
        Row("Refused", [_reasons(targets.part("refused").counts())]),
        Row("Names", [_names(targets)]),
        Row("Datagrams", _datagrams(told)),
        Row("Held", [_held(held)]),
    ]


def _opened(targets: Told) -> list[str]:
    connected, resolved = targets.count("connected"), targets.count("resolved")
    now = together(
        (
            f"{targets.count('open'):,} open now" if targets.count("open") else "",
            f"{targets.count('connecting'):,} being made" if targets.count("connecting") else "",
        )
    )
    return [
        together((amount(connected, "connection{s}"), now)) if connected or now else "",
        f"{amount(resolved, 'name{s}')} looked up for clients" if resolved else "",
    ]


def _names(targets: Told) -> str:
    """Return what the DNS was asked, once somebody used the exit: it asks for itself before."""
    names = targets.part("names")
    is_used = targets.count("connected") or targets.count("resolved") or targets.part("refused")
    return phrases(names, _NAMES) if is_used else ""


def _reasons(counts: dict[str, int]) -> str:
    """Return how often each reason was there, the most frequent first."""
    ranked = sorted(counts, key=lambda reason: (-counts[reason], reason))
    named = [
        (_REASONS.get(reason, reason.replace("_", " ")[:40]), counts[reason])
        for reason in ranked[:_MOST_REASONS]
    ]
    more = sum(counts[reason] for reason in ranked[_MOST_REASONS:])
    return tally((*named, ("for other reasons", more)))


def _datagrams(told: Told) -> list[str]:
    if not told.part("exit"):
        return []
    udp = told.part("udp")
    if not udp:
        return ["none are sent: its policy allows none"] if told.says("udp", None) else []
    counts = udp.part("datagrams").counts()
    dropped = {why: count for why, count in counts.items() if why not in _MOVED}
    associated, still_open = udp.count("associated"), udp.count("open")
    moved = together(f"{counts[what]:,} {what}" for what in _MOVED if what in counts)
    return [
        together(
            (
                amount(associated, "association{s}"),
                f"{still_open:,} open now" if still_open else "",
                moved,
            )
        )
        if associated
        else "",
        f"dropped, {_reasons(dropped)}" if dropped else "",
    ]


def _held(held: Told) -> str:
    """Return what became of streams whose circuits died."""
    streams, resumed, lost = (held.count(name) for name in ("streams", "resumed", "lost"))
    return together(
        (
            f"{amount(streams, 'stream{s}')} of circuits that died" if streams else "",
            f"{amount(resumed, 'stream{s}')} went on over another circuit" if resumed else "",
            f"{lost:,} given up" if lost else "",
        )
    )
