"""The page of an authority: is there a consensus, who took part, and which relays were reached."""

from warren.status.text.directory import (
    links_row,
    network_rows,
    process_row,
    sentence,
    title,
)
from warren.status.text.page import Page, Row
from warren.status.text.told import Told
from warren.status.text.units import amount, duration, together


def authority_page(told: Told, now: float) -> Page:
    """Return the page of an authority; `now` is in Unix seconds."""
    name = told.text("name")
    return Page(
        title(f"Authority {name}" if name else "Authority", told),
        _verdict(told, now),
        [
            Row("Address", [told.text("address")]),
            Row("Id", [told.text("id")]),
            Row("Relays", _relays(told)),
            *network_rows(told, now),
            Row("Last vote", _last_vote(told, now)),
            Row("Made", [_made(told)]),
            Row("Refused", [_refused(told)]),
            links_row(told.part("links")),
            process_row(told),
        ],
    )


def _verdict(told: Told, now: float) -> str:
    if not told.has_number("consensus_valid_until"):
        return ""
    reason = told.text("trouble")
    why = together((sentence(reason), _advice(told)), " ") if reason else ""
    if now < told.number("consensus_valid_until"):
        good = "In use: it has a consensus that counts now, and gives it to everybody who asks."
        return f"{good} But the last vote made none. {why}" if why else good
    is_first = not told.count("consensus_valid_after")
    what = "There is no consensus yet" if is_first else "There is no consensus that counts now"
    return f"{what}. {why or 'The next vote may make one.'}"


def _advice(told: Told) -> str:
    missing = told.part("last_count").texts("missing")
    return "See that the other authorities run and reach this one." if missing else ""


def _relays(told: Told) -> list[str]:
    if not told.has_number("relays_known"):
        return []
    known, running = told.count("relays_known"), told.count("relays_running")
    if not known:
        return ["none has published to it yet"]
    return [f"{known:,} known, {running:,} of them reached and working"]


def _last_vote(told: Told, now: float) -> list[str]:
    last = told.part("last_count")
    at = last.number("valid_after")
    if not at:
        return []
    when = f"{duration(now - at)} ago" if now >= at else f"for {duration(at - now)} from now"
    of = f" of {told.count('authorities'):,}" if told.count("authorities") else ""
    missing = together(last.texts("missing"))
    return [
        f"{when}: {last.count('votes'):,}{of} voted, {last.count('signatures'):,}{of} signed",
        f"without a vote from {missing}" if missing else "",
    ]


def _refused(told: Told) -> str:
    """Return how often somebody was told to wait, because his address asked for too much."""
    requests, descriptors = (
        told.count(f"{what}_turned_away") for what in ("requests", "descriptors")
    )
    if not requests:
        return ""
    brought = f", {amount(descriptors, 'descriptor{s}')} among them" if descriptors else ""
    return f"{amount(requests, 'request{s}')} of addresses that sent too many{brought}"


def _made(told: Told) -> str:
    made, missed, served = (
        told.count(f"consensuses_{what}") for what in ("made", "missed", "served")
    )
    return together(
        (
            amount(made, "consensus{es}") if made else "none" if missed else "",
            f"{missed:,} missed" if missed else "",
            f"given to others on {amount(served, 'request{s}')}" if served else "",
        )
    )
