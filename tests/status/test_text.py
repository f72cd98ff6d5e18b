"""The page of a process says what its user asks, whatever the document is that it is made of.

The documents are those of real processes of a lab, through which a page, a file and datagrams
went while a relay died; those that are ``older`` were made before there were pages.
"""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.directory.clock_hints import clock_trouble
from warren.roles.mirror import NO_CONSENSUS, OLD_CONSENSUS, WRONG_CLOCK
from warren.status.text.describe import describe
from warren.status.text.directory import ADVICE

FOLDER = Path(__file__).parent / "documents"
DOCUMENTS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
ROOT = Path(__file__).parents[2]
NOW = 1795888957
#: It would clear the screen, rename the window, write backwards, go on in another line.
HOSTILE = "\x1b[2J\x1b]0;x\x07\x9b31m\u202eevil\r\n\x00\x7f\u2028 relay"


def page(document: Mapping[str, Any], width: int = 80) -> str:
    return describe(document, now=NOW, width=width)


def changed(name: str, **values: Any) -> dict[str, Any]:
    """Return a document in which the part that each name leads to (``a__b``) is another one."""
    document: dict[str, Any] = copy.deepcopy(DOCUMENTS[name])
    for path, value in values.items():
        *way, last = path.split("__")
        part = document
        for step in way:
            part = part[step]
        part[last] = value
    return document


def verdict(document: Mapping[str, Any]) -> str:
    """Return the second block of the page, as one line."""
    return " ".join(page(document).split("\n\n")[1].split())


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to everything that is in a document."""
    entries: Any = ()
    if isinstance(value, dict):
        entries = value.items()
    elif isinstance(value, list):
        entries = enumerate(value)
    for key, inner in entries:
        yield (*way, key)
        yield from places(inner, (*way, key))


def replaced(document: Any, way: tuple[Any, ...], value: Any) -> Any:
    """Return the document with another value at `way`."""
    if not way:
        return value
    result = copy.copy(document)
    result[way[0]] = replaced(document[way[0]], way[1:], value)
    return result


def mapped(value: Any, change: Callable[[str], str]) -> Any:
    """Return a document in which every text is another one, the keys of counters as well."""
    if isinstance(value, dict):
        return {key: mapped(inner, change) for key, inner in value.items()}
    if isinstance(value, list):
        return [mapped(inner, change) for inner in value]
    return change(value) if isinstance(value, str) else value


# ---- what it says of real processes


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_page_of_a_real_process_is_the_one_beside_its_document(name: str) -> None:
    assert page(DOCUMENTS[name]) == (FOLDER / f"{name}.txt").read_text()


def test_the_page_that_the_documents_show_is_one() -> None:
    exits = {"de": 12, "nl": 9, "??": 10}
    links = {"open": 148, "accepted": 3310, "dialled": 1204}
    document = changed(
        "relay",
        network="example",
        pid=4711,
        running_seconds=9 * 86400 + 4 * 3600 + 60,
        address="192.0.2.1:9440",
        id="7t4smbk2y6ktk74fkxjt3u7ama3lditmxyophsanbnfh7ucutrgq",
        directory={"relays_listed": 212, "exits_by_country": exits},
        links=links,
        circuits=96,
        created=81204,
        extended=80911,
        refused=12,
        cells={"forward": 81 << 18, "backward": 731 << 18},
        bandwidth={"limit": 1_500_000, "sent": 851 << 30, "waited_seconds": 550.5},
    )
    document["directory"]["consensus_valid_after"] = NOW - 24 * 60
    document["directory"]["consensus_valid_until"] = NOW + 2 * 3600 + 35 * 60

    assert page(document) in (ROOT / "docs/operating.md").read_text(encoding="utf-8")


def test_a_guard_through_which_circuits_fail_is_named() -> None:  # PATH-4
    guard = {"guard": "m3aqo26f" * 6, "below_percent": 50, "built": 81, "of_begun": 204}
    document = changed("proxy", guards__biased=[guard | {"served": 0, "of_used": 0}])

    text = " ".join(page(document).split())

    assert "Guards m3aqo26f: of 204 circuits begun 81 were built. Below 50 % it may be" in text
    assert "Guards" not in page(DOCUMENTS["proxy"])


# ---- is it of use, and what can be done

AUTHORITY_IN_USE = "In use: it has a consensus that counts now, and gives it to everybody who asks."


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (changed("proxy"), "Usable: programs can use 127.0.0.1:42319."),
        (changed("proxy", listen=[], dns_listen=["127.0.0.1:1053"]), "Usable: programs can ask"),
        (
            changed("proxy", directory__trouble=OLD_CONSENSUS),
            "Usable: programs can use 127.0.0.1:42319. But take note. There is no newer consensus",
        ),
        (
            changed("proxy", circuits=[], interruptions__network_is_down=True),
            "Not usable. This machine has no network: connect it",
        ),
        (
            changed("proxy", circuits=[], directory__trouble=f"{NO_CONSENSUS}: refused"),
            f"Not usable. N{NO_CONSENSUS[1:]}. See that this machine is online",
        ),
        (
            changed("proxy", circuits=[], directory__trouble=f"{WRONG_CLOCK}: it is 1970"),
            "Not usable. No consensus fits the clock of this machine. Compare what",
        ),
        (
            changed("proxy", circuits=[], directory__trouble=clock_trouble(-2 * 86400)),
            "Not usable. The clock of this machine is about 2 days slow, as several relays say:",
        ),
        (
            changed("proxy", directory__trouble=clock_trouble(3 * 3600)),
            "Usable: programs can use 127.0.0.1:42319. But take note. The clock of this machine is",
        ),
        (
            changed("proxy", circuits=[], directory__consensus_valid_after=0),
            "Not usable yet. It is asking for the list of relays,",
        ),
        (
            changed("proxy", circuits=[], guards__internet_down=True),
            "Not usable. None of its first relays answers.",
        ),
        (
            changed("proxy", circuits=[], trouble="no exit is in fr"),
            "Not usable. No circuit was built: No exit is in fr. It tries again by itself.",
        ),
        (changed("proxy", circuits=[]), "Not usable yet. No circuit is ready;"),
        (changed("relay"), "In use: the network lists it as a relay,"),
        (changed("exit"), "In use: the network lists it as an exit,"),
        (
            changed("relay", directory__trouble=OLD_CONSENSUS),
            "Listed as a relay, but not for long. There is no newer consensus",
        ),
        (
            changed("relay", listing={"listed": False, "trouble": "nobody has connected: open it"}),
            "Of no use yet. Nobody has connected: open it.",
        ),
        (
            changed(
                "relay",
                listing={"listed": False, "trouble": "no authority has taken it"},
                publisher={"uploads": 0, "upload_failures": 7, "last_error": "the clock is late"},
            ),
            "Of no use yet. No authority has taken it.",
        ),
        (
            changed("relay", listing={"listed": False, "trouble": None}),
            "Not listed yet. Authorities have to reach it",
        ),
        (
            changed(
                "relay",
                listing={"listed": False, "trouble": None},
                directory__trouble=NO_CONSENSUS,
            ),
            "Of no use yet. No consensus yet: no authority can be reached",
        ),
        (changed("authority"), AUTHORITY_IN_USE),
        (
            changed("authority", trouble="votes of 1, expected 2"),
            f"{AUTHORITY_IN_USE} But the last vote made none. Votes of 1, expected 2.",
        ),
        (
            changed("authority", consensus_valid_after=0, consensus_valid_until=0),
            "There is no consensus yet. The next vote may make one.",
        ),
        (
            changed(
                "authority",
                consensus_valid_until=NOW - 1,
                trouble="too few",
                last_count__missing=["bob", "carol"],
            ),
            "There is no consensus that counts now. Too few. See that the other authorities run",
        ),
        ({}, "This is a process that does not say what it is,"),
        ({"role": "bridge"}, "This is a bridge, of which this version knows nothing: --json"),
    ],
)
def test_it_says_whether_it_is_of_use_and_if_not_why_and_what_to_do(
    document: dict[str, Any], said: str
) -> None:
    assert verdict(document).startswith(said)


@pytest.mark.parametrize("trouble", [NO_CONSENSUS, OLD_CONSENSUS, WRONG_CLOCK])
def test_there_is_advice_for_every_trouble_with_the_directory(trouble: str) -> None:
    assert ADVICE[trouble]


@pytest.mark.parametrize(
    ("document", "error"),
    [
        (changed("proxy", directory__trouble=f"{NO_CONSENSUS}: refused"), "refused"),
        (changed("relay", directory__trouble=f"{WRONG_CLOCK}: it is 1970"), "it is 1970"),
        (changed("relay", publisher={"uploads": 0, "last_error": "409: late"}), "409: late"),
    ],
)
def test_the_error_behind_what_is_wrong_has_a_row_of_its_own(
    document: dict[str, Any], error: str
) -> None:
    text = page(document)

    assert f"\nLast error  {error}\nProcess " in text
    assert text.count(error) == 1


def test_what_an_authority_said_before_another_took_the_descriptor_is_left_out() -> None:
    assert "late" not in page(changed("relay", publisher={"uploads": 1, "last_error": "late"}))


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, None),
        (1, "idofrela: this proxy goes through none of them"),
        (9, "idofrela, idofrela, idofrela, idofrela and 5 more: this proxy goes through none of"),
    ],
)
def test_a_proxy_shows_which_relays_are_of_its_user(count: int, said: str | None) -> None:
    text = page(changed("proxy", own_relays=["idofrelay2dxlggsyqs3h"] * count))

    assert (said is None) == ("Own relays" not in text)
    assert said is None or f"Own relays  {said}" in " ".join(
        line if line.startswith("Own") else line.strip() for line in text.splitlines()
    )


def test_votes_are_counted_a_moment_before_their_consensus_is_valid() -> None:
    document = changed("authority", last_count__valid_after=NOW + 2)

    assert "\nLast vote   for 2 s from now: 3 of 3 voted, 3 of 3 signed\n" in page(document)


def test_who_cast_no_vote_is_named() -> None:
    document = changed("authority", last_count__votes=2, last_count__missing=["carol"])

    assert "7 s ago: 2 of 3 voted, 3 of 3 signed\n            without a vote from carol\n" in page(
        document
    )


def test_an_exit_whose_policy_allows_no_datagrams_says_so() -> None:
    assert "Datagrams   none are sent: its policy allows none\n" in page(changed("exit", udp=None))


def test_what_an_exit_asks_the_dns_for_itself_is_left_out_until_it_is_used() -> None:
    used = page(DOCUMENTS["exit"])
    unused = page(changed("exit", exit__connected=0, exit__resolved=0, exit__refused={}))

    assert "\nNames       4 questions to the DNS, " in used
    assert "\nNames " not in unused


def test_how_much_is_kept_for_others_is_told_once_it_is_something() -> None:
    memory = {"limit": 64 << 20, "kept": 1000, "pressed": 0, "pressures": 0, "closed": {}}
    quiet = changed("exit", memory=memory)
    busy = changed("exit", memory={**memory, "kept": 12 << 20})

    assert "Memory" not in page(quiet)
    assert "Memory      12 MiB kept for others, 64 MiB at most\n" in page(busy)
    assert "under pressure" not in page(busy)


@pytest.mark.parametrize("name", ["exit", "relay", "workers"])
def test_too_much_to_do_is_told(name: str) -> None:
    never = page(changed(name, load={"overloaded": 0, "overloads": 0}))
    once = page(changed(name, load={"overloaded": 0, "overloads": 1}))
    now = page(changed(name, load={"overloaded": 1, "overloads": 2}))

    assert "Load" not in never
    assert "Load        had too much to do 1 time so far\n" in once
    assert "Load        more to do now than it can: takes no new circuits\n" in now
    assert "had too much to do 2 times so far\n" in now


def test_the_worker_that_has_too_much_to_do_is_named() -> None:
    workers = copy.deepcopy(DOCUMENTS["workers"]["workers"])
    workers[0]["load"] = {"overloaded": 1, "overloads": 1}

    told = page(changed("workers", workers=workers), width=200)

    assert told.count("more to do than it can") == 1


@pytest.mark.parametrize("name", ["exit", "relay", "proxy", "workers"])
def test_who_had_to_go_because_memory_ran_short_is_told(name: str) -> None:
    closed = {"circuits": 12, "circuits that had died": 1}
    memory = {"limit": 64 << 20, "kept": 60 << 20, "pressed": 1, "pressures": 2, "closed": closed}

    told = page(changed(name, memory=memory), width=200)

    assert "60 MiB kept for others, 64 MiB at most" in told
    assert "under pressure now: takes no new circuits" in told
    assert "ran short 2 times, closed circuits: 12, circuits that had died: 1" in told


def test_the_reasons_of_refusals_are_told_in_words_the_most_frequent_first() -> None:
    refused = {"exit_policy": 3, "connect_refused": 40, "single hop": 1, "of_a_later_version": 2}

    text = " ".join(page(changed("exit", exit__refused=refused)).split())

    assert (
        " Refused the target refused: 40, not allowed here: 3, of a later version: 2, "
        "not over three relays: 1 Names "
    ) in text


def test_connections_of_addresses_that_want_too_many_are_told() -> None:
    links = {"open": 3, "accepted": 300, "refused": 2, "turned_away": 12_345}

    assert "Links       3 open; so far 300 accepted, 2 refused, 12,345 too many\n" in page(
        changed("relay", links=links)
    )


def test_what_an_authority_was_asked_too_often_is_told() -> None:
    asked = changed("authority", requests_turned_away=1200, descriptors_turned_away=1)

    text = " ".join(page(asked).split())
    said = "Refused 1,200 requests of addresses that sent too many, 1 descriptor among them Links"
    assert said in text
    assert "Refused" not in page(changed("authority", requests_turned_away=0))


def test_an_average_is_told_once_it_means_something() -> None:
    long = changed("exit", running_seconds=3600, cells={"forward": 900, "backward": 900 * 99})

    assert (
        "Carried     352 MiB: 348 MiB towards clients, 3.5 MiB from them\n"
        "            100 KiB/s on average\n"
    ) in page(long)
    assert "average" not in page(DOCUMENTS["exit"])


def test_of_many_circuits_workers_and_countries_the_first_are_shown() -> None:
    circuits = DOCUMENTS["proxy"]["circuits"][:1] * 40
    countries = {f"{a}{b}": 1 for a in "abc" for b in "xyz"}
    proxy = page(changed("proxy", circuits=circuits, directory__exits_by_country=countries))
    workers = page(changed("workers", workers=DOCUMENTS["workers"]["workers"][:1] * 40))

    assert "and 28 more circuits" in proxy
    assert "1 in cy, 1 elsewhere)" in " ".join(proxy.split())
    assert "and 24 more workers" in workers
    assert max(proxy.count("\n"), workers.count("\n")) < 50


def test_a_clock_that_is_behind_the_consensus_is_told() -> None:
    early = describe(DOCUMENTS["proxy"], now=NOW - 3600, width=80)

    assert "Consensus   dated 59 min from now, by the clock of this machine\n" in early


# ---- whatever the document is


def test_what_never_happened_is_left_out() -> None:
    def nothing(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: nothing(inner) for key, inner in value.items()}
        if isinstance(value, bool) or not isinstance(value, int):
            return [] if isinstance(value, list) else value
        return 0

    for document in DOCUMENTS.values():
        text = page(nothing(document))

        _, _, rows = text.partition("\n\n")
        assert [line for line in rows.splitlines() if {"0", "None"} & set(line.split())] == []


def test_what_is_left_out_of_a_document_is_left_out_of_the_page() -> None:
    for document in DOCUMENTS.values():
        whole = labels(page(document))
        for way in places(document):
            if isinstance(way[-1], str) and way != ("role",):
                *outer, name = way
                part: Any = document
                for step in outer:
                    part = part[step]
                rest = {key: value for key, value in part.items() if key != name}

                text = page(replaced(document, tuple(outer), rest))

                assert labels(text) <= whole, name
                assert "None" not in text


def labels(text: str) -> set[str]:
    """Return what stands in front of the rows of a page."""
    _, _, rows = text.rpartition("\n\n")
    return {line[:12].strip() for line in rows.splitlines()} - {""}


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -1,
        1e300,
        float("nan"),
        10**30,
        "text",
        "",
        [],
        {},
        [[]],
        [{}],
        {"": {}},
        [1, "x"],
    ],
    ids=repr,
)
def test_what_is_of_another_kind_in_another_version_breaks_nothing(value: Any) -> None:
    for document in DOCUMENTS.values():
        for way in places(document):
            text = page(replaced(document, way, value))

            assert len(text.splitlines()) >= 2
            assert not {"None", "nan", "-1"} & set(text.split())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=90),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.data())
def test_every_page_is_printable_and_fits(data: st.DataObject) -> None:
    document = DOCUMENTS[data.draw(st.sampled_from(sorted(DOCUMENTS)))]
    for _ in range(data.draw(st.integers(1, 4))):
        way = data.draw(st.sampled_from(list(places(document)) or [()]))
        document = replaced(document, way, data.draw(JSON))
    width = data.draw(st.integers(40, 120))

    check(describe(document, now=NOW, width=width), width)


def check(text: str, width: int) -> None:
    """Check that every line fits and has nothing but printable ASCII."""
    for line in text.split("\n"):
        assert len(line) <= width
        assert all(" " <= letter <= "~" for letter in line)


@pytest.mark.parametrize("width", [1, 40, 79, 80, 100])
def test_no_line_is_wider_than_the_terminal_and_no_text_can_control_it(width: int) -> None:
    for document in DOCUMENTS.values():
        texts = mapped(document, lambda text: text if text in PLAIN else text + HOSTILE * 9)
        counted = {HOSTILE: 3, "x" * 300: 2}
        for hostile in (
            texts,
            {**texts, "exit": {"refused": counted}, "udp": {"open": 1, "datagrams": counted}},
            {**texts, "directory": {"relays_listed": 9, "exits_by_country": counted}},
        ):
            check(describe(hostile, now=NOW, width=width), max(width, 40))


#: Texts that decide which page it is.
PLAIN = ("proxy", "relay", "exit", "authority", "open")


def test_a_hostile_error_is_one_sentence_of_printable_letters() -> None:
    document = changed("proxy", circuits=[], trouble=HOSTILE)

    assert "No circuit was built: ?[2J?]0;x??31m?evil????? relay." in verdict(document)
