"""The page of a relay: does the network use it, what does it carry, and what do its workers.

What an exit opens is in ``exit``.
"""

from warren.status.text.directory import (
    error_row,
    links_row,
    network_rows,
    process_row,
    sentence,
    title,
    trouble_of,
)
from warren.status.text.exit import exit_rows
from warren.status.text.memory import memory_row
from warren.status.text.page import Page, Row, shortened
from warren.status.text.told import Told, phrases
from warren.status.text.units import MINUTE, amount, duration, moved, size, together

_MOST_WORKERS = 16

_CIRCUITS = (
    ("created", "accepted"),
    ("extended", "led on"),
    ("refused", "refused"),
)
_WORKER = (("connections", "connection{s}"), ("circuits", "circuit{s}"))


def relay_page(told: Told, now: float) -> Page:
    """Return the page of a relay, which may be an exit; `now` is in Unix seconds."""
    directory = told.part("directory")
    is_exit = told.text("role") == "exit"
    return Page(
        title("Exit" if is_exit else "Relay", told),
        _verdict(told, is_exit=is_exit),
        [
            Row("Address", [told.text("address")]),
            Row("Id", [told.text("id")]),
            *network_rows(directory, now),
            links_row(told.part("links")),
            Row("Circuits", [_circuits(told)]),
            Row("Carried", _carried(told)),
            Row("Bandwidth", [_bandwidth(told.part("bandwidth"))]),
            *(exit_rows(told) if is_exit else ()),
            memory_row(told),
            Row("Load", _load(told.part("load"))),
            Row("Workers", _workers(told)),
            error_row(directory, _refusal(told.part("publisher"))),
            process_row(told),
        ],
    )


def _verdict(told: Told, *, is_exit: bool) -> str:
    listing, trouble = told.part("listing"), trouble_of(told.part("directory"))
    if listing.says("listed", True):
        role = "an exit" if is_exit else "a relay"
        if trouble:
            return f"Listed as {role}, but not for long. {trouble}"
        return f"In use: the network lists it as {role}, and others can build circuits over it."
    if reason := listing.text("trouble"):
        return f"Of no use yet. {sentence(reason)}"
    if trouble:
        return f"Of no use yet. {trouble}"
    if not listing:
        return ""
    return (
        "Not listed yet. Authorities have to reach it from outside first, and then the next "
        "consensus has it. In a large network that takes an hour or two."
    )


def _refusal(publisher: Told) -> str:
    """Return why no authority has taken the descriptor, if none has."""
    return publisher.text("last_error") if publisher.says_none("uploads") else ""


def _circuits(told: Told) -> str:
    so_far = together(
        f"{told.count(name):,} {what}" for name, what in _CIRCUITS if told.count(name)
    )
    now = f"{told.count('circuits'):,} open" if told.count("circuits") or so_far else ""
    return together((now, so_far and f"so far {so_far}"), "; ")


def _carried(told: Told) -> list[str]:
    cells = told.part("cells")
    forward, backward = cells.count("forward"), cells.count("backward")
    if not (forward or backward):
        return []
    seconds = told.number("running_seconds")
    rate = f"{moved(int((forward + backward) / seconds))}/s on average" if seconds > MINUTE else ""
    parts = f"{moved(backward)} towards clients, {moved(forward)} from them"
    return [f"{moved(forward + backward)}: {parts}", rate]


def _bandwidth(bandwidth: Told) -> str:
    """Return what may be sent, what was, and for how long somebody had to wait for that."""
    limit, sent, waited = (bandwidth.number(name) for name in ("limit", "sent", "waited_seconds"))
    return together(
        (
            f"sends {size(limit)}/s at most" if limit else "",
            f"{size(sent)} so far" if sent else "",
            f"peers had to wait for {duration(waited)} in all" if waited >= 1 else "",
        )
    )


def _load(load: Told) -> list[str]:
    """Return whether there is too much to do now, and how often there was (DOS-10)."""
    overloads = load.count("overloads")
    return [
        "more to do now than it can: takes no new circuits" if load.count("overloaded") else "",
        f"had too much to do {amount(overloads, 'time{s}')} so far" if overloads else "",
    ]


def _workers(told: Told) -> list[str]:
    workers = told.parts("workers")
    return shortened((_worker(each) for each in workers), _MOST_WORKERS, "workers")


def _worker(worker: Told) -> str:
    if not worker.part("links"):
        return f"process {worker.count('pid')}: has not answered yet"
    cells = worker.part("cells")
    carried = cells.count("forward") + cells.count("backward")
    parts = (
        phrases(worker, _WORKER),
        f"{moved(carried)} carried" if carried else "",
        "more to do than it can" if worker.part("load").count("overloaded") else "",
    )
    does = together(parts)
    return f"process {worker.count('pid')}: {does or 'nothing to do yet'}"
