"""What became of the requests of a proxy's programs: served, refused, moved, resumed.

No target is in it, and no program: those are in the log, where that is to be.
"""

from warren.status.text.page import Row
from warren.status.text.told import Told, phrases, tallied
from warren.status.text.units import amount, moved, pause

_WAYS = (
    ("socks5", "SOCKS5"),
    ("socks4", "SOCKS4"),
    ("http_connect", "HTTP CONNECT"),
    ("http_plain", "plain HTTP"),
)
_SERVED = (("opened", "stream{s} opened"), ("resolved", "name{s} looked up"))
#: Counters of what was not served, each a line of its own, and what to say of them.
_REFUSED = (
    ("turned_away", "connection{s} turned away: not allowed to use this proxy, or too many"),
    ("wrong_logins", "login{s} with a wrong user name or password"),
    ("given_up", "request{s} given up after waiting too long"),
    ("broken_off", "connection{s} broken off by programs"),
    ("malformed", "request{s} that made no sense"),
    ("bugs", "request{s} ended by a bug of the proxy: its log says where"),
)
_DATAGRAMS = (
    ("udp_associations", "association{s}"),
    ("udp_open", "open now"),
    ("udp_sent", "datagram{s} sent"),
    ("udp_received", "received"),
)
_DATAGRAMS_DROPPED = (
    ("udp_refused", "not allowed"),
    ("udp_unsent", "without a circuit"),
    ("udp_foreign", "from strangers"),
    ("udp_malformed", "made no sense"),
    ("udp_too_long", "too long"),
    ("udp_undelivered", "not taken by the program"),
)
_NAMES = (
    ("answered", "answered"),
    ("not_found", "nothing there"),
    ("failed", "failed"),
    ("refused", "refused"),
    ("malformed", "made no sense"),
    ("turned_away", "turned away"),
    ("asking", "under way"),
)


def request_rows(told: Told) -> list[Row]:
    """Return the rows about requests in the document `told`."""
    door = told.part("proxy")
    return [
        Row("Served", _served(door)),
        Row("Refused", _refused(door)),
        Row("Moved", [_moved(told.part("links"))]),
        Row("Resumed", _resumed(told.part("resuming"))),
        Row("Datagrams", _datagrams(door)),
        Row("DNS", _dns(told.part("dns"))),
        Row("Take care", [_leaks(door)]),
    ]


def _served(door: Told) -> list[str]:
    connections, still_open = door.count("connections"), door.count("connections_open")
    if not connections:
        return []
    now = f", {still_open:,} open now" if still_open else ""
    return [
        f"{amount(connections, 'connection{s}')} of programs{now}",
        tallied(door, _WAYS),
        phrases(door, _SERVED),
    ]


def _refused(door: Told) -> list[str]:
    failed = door.count("failed")
    refused = max(door.count("refused") - failed, 0)  # which counts both
    return [
        amount(refused, "request{s} against the rules, such as one for an address inside")
        if refused
        else "",
        amount(failed, "request{s} that failed at the exit, or on the way there") if failed else "",
        *(phrases(door, (entry,)) for entry in _REFUSED),
    ]


def _moved(links: Told) -> str:
    cells = links.part("cells_in_all")
    received, sent = cells.count("received"), cells.count("sent")
    if not (received or sent):
        return ""
    return f"{moved(received)} received, {moved(sent)} sent, padding included"


def _resumed(resuming: Told) -> list[str]:
    deaths, resumed, waiting, lost = (
        resuming.count(name) for name in ("deaths", "resumed", "waiting", "streams_lost")
    )
    if not deaths:
        return []
    pauses = resuming.numbers("pause_seconds")
    longest = f", after {pause(max(pauses))} at most" if pauses else ""
    return [
        amount(deaths, "circuit{s} with streams died"),
        f"the streams of {resumed:,} went on over another circuit{longest}" if resumed else "",
        f"those of {waiting:,} are on the way to another one" if waiting else "",
        amount(lost, "stream{s} lost") if lost else "",
    ]


def _datagrams(door: Told) -> list[str]:
    dropped = tallied(door, _DATAGRAMS_DROPPED)
    return [phrases(door, _DATAGRAMS), f"dropped, {dropped}" if dropped else ""]


def _dns(dns: Told) -> list[str]:
    queries = dns.count("queries")
    return [amount(queries, "question{s}"), tallied(dns, _NAMES)] if queries else []


def _leaks(door: Told) -> str:
    leaks = door.count("literal_addresses")
    if not leaks:
        return ""
    return (
        f"{amount(leaks, 'request{s}')} named an address instead of a name. The program may have "
        "looked up the name in the open: the log of the proxy says which one. With curl and git, "
        "write socks5h instead of socks5."
    )
