"""What the pages of all roles share: the head, the network as the consensus has it, the foot."""

from warren.status.text.page import Row
from warren.status.text.told import Told
from warren.status.text.units import amount, duration, together

UNKNOWN_COUNTRY = "??"
_MOST_COUNTRIES = 8
SHORT_ID = 8

#: What can be wrong with the directory (``roles.mirror``), and what a person can do about it.
ADVICE = {
    "no consensus yet: no authority can be reached, or they have made none": (
        "See that this machine is online, that no firewall keeps it from the authorities, and "
        "that the network file is the right one."
    ),
    "no consensus fits the clock of this machine": (
        "Compare what `date -u` prints with the right time."
    ),
    "there is no newer consensus: the authorities are down, or kept from this machine, or its "
    "clock is fast": (
        "If this machine is online and its clock is right, nothing can be done here: it goes on by "
        "itself once they are back."
    ),
}


def title(what: str, told: Told) -> str:
    """Return what this is, in which network, and since when."""
    name = told.text("network")
    of = f" of the network {name}" if name else ""
    since = f", running for {duration(told.number('running_seconds'))}"
    return f"{what}{of}{since if told.has_number('running_seconds') else ''}"


def sentence(text: str) -> str:
    """Return `text`, which may be the beginning of one, as a sentence."""
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text[-1:] in '.!?' else '.'}"


def trouble_of(directory: Told) -> str:
    """Return what is wrong with the directory and what to do, in sentences; "" for nothing."""
    what, _ = _trouble(directory)
    return together((sentence(what), ADVICE.get(what, "")), " ") if what else ""


def error_row(directory: Told, more: str = "") -> Row:
    """Return the errors behind what is wrong: that with the directory, and one `more`."""
    _, error = _trouble(directory)
    return Row("Last error", [error, more])


def _trouble(directory: Told) -> tuple[str, str]:
    """Return what is wrong, and the error that showed it, if that is known."""
    trouble = directory.text("trouble")
    known = next((what for what in ADVICE if trouble.startswith(what)), trouble)
    return known, trouble[len(known) :].lstrip(": ")


def network_rows(directory: Told, now: float) -> list[Row]:
    """Return who is in the network, and how old that knowledge is; `now` is in Unix seconds."""
    return [
        Row("Network", [_relays(directory)]),
        Row("Consensus", [_consensus(directory, now)]),
    ]


def _relays(directory: Told) -> str:
    relays = directory.count("relays_listed")
    if not relays:
        return ""
    exits = directory.part("exits_by_country").counts()
    known = amount(relays, "relay{s}")
    if not exits:
        return f"{known}, none of them an exit"
    return f"{known}, {amount(sum(exits.values()), 'exit{s}')} ({together(_countries(exits))})"


def _countries(exits: dict[str, int]) -> list[str]:
    """Return where exits are, most of them first; where nobody knows comes last."""
    ranked = sorted(exits, key=lambda each: (each == UNKNOWN_COUNTRY, -exits[each], each))
    names = {UNKNOWN_COUNTRY: "an unknown country"}
    places = [f"in {names.get(each, each[:40])}" for each in ranked]
    if len(ranked) == 1:
        return places
    phrases = [f"{exits[each]:,} {place}" for each, place in zip(ranked, places, strict=True)]
    more = sum(exits[each] for each in ranked[_MOST_COUNTRIES:])
    return phrases[:_MOST_COUNTRIES] + ([f"{more:,} elsewhere"] if more else [])


def _consensus(directory: Told, now: float) -> str:
    made, until = (directory.number(f"consensus_valid_{end}") for end in ("after", "until"))
    if not made:
        return ""
    if now < made:
        return f"dated {duration(made - now)} from now, by the clock of this machine"
    age = f"{duration(now - made)} old"
    if not until:
        return age
    return f"{age}, {'good for' if now < until else 'out of date for'} {duration(abs(until - now))}"


def process_row(told: Told) -> Row:
    """Return which process and which version this is."""
    version = told.text("version")
    number = f"number {told.count('pid')}" if told.count("pid") else ""
    return Row("Process", [together((number, f"version {version}" if version else ""))])


def links_row(links: Told) -> Row:
    """Return how many peers are linked to this one."""
    since = together(
        (
            f"{links.count('accepted'):,} accepted" if links.count("accepted") else "",
            f"{links.count('dialled'):,} made" if links.count("dialled") else "",
            f"{links.count('refused'):,} refused" if links.count("refused") else "",
            f"{links.count('turned_away'):,} too many" if links.count("turned_away") else "",
        )
    )
    now = f"{links.count('open'):,} open" if links.count("open") or since else ""
    return Row("Links", [together((now, since and f"so far {since}"), "; ")])
