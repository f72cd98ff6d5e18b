"""The page of a proxy: can programs use it, and over which circuits.

What became of their requests is in ``requests``. A proxy that only answers DNS (``warren dns``) is
one without listeners.
"""

from warren.status.text.directory import (
    SHORT_ID,
    UNKNOWN_COUNTRY,
    error_row,
    links_row,
    network_rows,
    process_row,
    sentence,
    title,
    trouble_of,
)
from warren.status.text.memory import memory_row
from warren.status.text.page import Page, Row, shortened
from warren.status.text.requests import request_rows
from warren.status.text.told import Told, phrases
from warren.status.text.units import amount, together

_MOST_CIRCUITS = 12
_MOST_OWN = 4

_INTERRUPTIONS = (
    ("slept", "time{s} that this machine slept"),
    ("clock_set", "time{s} that its clock was set"),
    ("network_changed", "time{s} that its network changed"),
)


def proxy_page(told: Told, now: float) -> Page:
    """Return the page of a proxy; `now` is in Unix seconds."""
    listen, dns_listen = told.texts("listen"), told.texts("dns_listen")
    is_dns_alone = bool(dns_listen) and not listen
    directory, interrupted = told.part("directory"), told.part("interruptions")
    return Page(
        title("DNS port" if is_dns_alone else "Proxy", told),
        _verdict(told, listen, dns_listen),
        [
            Row("Listens at", [*listen, *(f"{place} for DNS" for place in dns_listen if place)]),
            *network_rows(directory, now),
            Row("Circuits", _circuits(told)),
            Row("Guards", [_biased(each) for each in told.part("guards").parts("biased")]),
            links_row(told.part("links")),
            *request_rows(told),
            memory_row(told),
            Row("Own relays", [_own_relays(told.texts("own_relays"))]),
            Row("Interrupted", [phrases(interrupted, _INTERRUPTIONS)]),
            error_row(directory),
            process_row(told),
        ],
    )


# ---- whether it can be used


def _verdict(told: Told, listen: list[str], dns_listen: list[str]) -> str:
    directory = told.part("directory")
    trouble = trouble_of(directory)
    if any(each.text("state") == "open" for each in told.parts("circuits")):
        place = (listen or dns_listen or [""])[0]
        use = f": programs can {'use' if listen else 'ask'} {place}" if place else ""
        return together((f"Usable{use}.", trouble and f"But take note. {trouble}"), " ")
    if told.part("interruptions").says("network_is_down", True):
        return (
            "Not usable. This machine has no network: connect it, and the proxy goes on by itself."
        )
    if trouble:
        return f"Not usable. {trouble}"
    if not directory:
        return ""
    if not directory.count("consensus_valid_after"):
        return "Not usable yet. It is asking for the list of relays, which takes seconds."
    if told.part("guards").says("internet_down", True):
        return (
            "Not usable. None of its first relays answers. See that this machine is online and "
            "that no firewall keeps it from them."
        )
    if reason := told.text("trouble"):
        return f"Not usable. No circuit was built: {sentence(reason)} It tries again by itself."
    return "Not usable yet. No circuit is ready; one is built within seconds."


# ---- circuits


def _circuits(told: Told) -> list[str]:
    circuits = told.parts("circuits")
    if not circuits:
        return []
    failed = told.count("failed")
    head = together(
        (
            f"{len(circuits):,} now",
            f"{told.count('built'):,} built so far" if told.count("built") else "",
            amount(failed, "attempt{s} failed") if failed else "",
            f"{told.count('given_up'):,} fell silent" if told.count("given_up") else "",
        )
    )
    ranked = sorted(circuits, key=lambda each: -each.count("streams"))
    lines = shortened((_circuit(each) for each in ranked), _MOST_CIRCUITS, "circuits")
    return [head, *lines]


def _circuit(circuit: Told) -> str:
    """Return the way from the guard to the exit, and what the circuit is for now."""
    countries = circuit.texts("countries")
    relays = circuit.texts("path")
    countries += [UNKNOWN_COUNTRY] * (len(relays) - len(countries))
    hops = [
        f"{relay[:SHORT_ID]} {country[:2] or UNKNOWN_COUNTRY}"
        for relay, country in zip(relays, countries, strict=False)
    ]
    return f"{' > '.join(hops[:8])}  {_use(circuit)}"


def _use(circuit: Told) -> str:
    state = circuit.text("state")
    if state and state != "open":
        return state[:20]
    if streams := circuit.count("streams"):
        return amount(streams, "stream{s}")
    return "in reserve" if circuit.says("used", False) else "idle"


def _biased(guard: Told) -> str:
    """Return how many circuits through a guard fail, and what that may mean (PATH-4)."""
    begun, used = guard.count("of_begun"), guard.count("of_used")
    counts = together(
        (
            f"of {begun:,} circuits begun {guard.count('built'):,} were built" if begun else "",
            f"of {used:,} used {guard.count('served'):,} were of use" if used else "",
        )
    )
    if not counts:
        return ""
    return (
        f"{guard.text('guard')[:SHORT_ID]}: {counts}. Below {guard.count('below_percent')} % it "
        "may be choosing which ones live, or the relays behind it come and go."
    )


def _own_relays(relays: list[str]) -> str:
    """Return which relays are this user's, by the beginnings of their ids."""
    ids = [relay[:SHORT_ID] for relay in relays if relay]
    more = f" and {len(ids) - _MOST_OWN:,} more" if len(ids) > _MOST_OWN else ""
    return f"{together(ids[:_MOST_OWN])}{more}: this proxy goes through none of them" if ids else ""
