"""What the documents say is so: links, commands, files, and the numbers of the protocol."""

import contextlib
import importlib
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from functools import reduce
from pathlib import Path

import click
import msgspec
import pytest

from simulation.__main__ import main as simulate
from warren import identity
from warren.addresses import Address
from warren.cli.main import warren
from warren.config.relay import RelayLimits
from warren.directory import descriptor, votes
from warren.directory.address_tables import FORBIDDEN_SUFFIXES, REFUSED_V4, REFUSED_V6
from warren.directory.consensus import CONSENSUS_LIMIT
from warren.directory.documents import Kind
from warren.directory.exit_policy import PROFILES, UDP_PROFILES
from warren.directory.parameters import Parameters
from warren.directory.relays import Flag
from warren.directory.signatures import SIGNATURE_SIZE
from warren.errors import ConfigError, EndReason
from warren.identity import Suite
from warren.network.circuits import CLOSING_SECONDS
from warren.protocol import (
    cells,
    dns_queries,
    handshake,
    holdings,
    messages,
    noise,
    resolution,
    resume,
)
from warren.protocol.cells import Command
from warren.protocol.ciphers import TAG_LENGTH
from warren.protocol.datagrams import MOST_DATAGRAM, MOST_WAITING
from warren.protocol.front import BY_REASON
from warren.protocol.messages import BeginFlags, ExtendStatus, Message, StandingFlags
from warren.protocol.multiplexer import MOST_STREAMS
from warren.protocol.onion import payload_length
from warren.protocol.stream import ENOUGH_UNSENT
from warren.roles.middles import MOST_MIDDLES
from warren.roles.relay import HOLD_SECONDS
from warren.roles.resumer import MOST_MOVES, MOVES_SECONDS, RESUME_SECONDS
from warren.roles.udp_exit import UdpLimits
from warren.status.control import ask, find_socket

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
)
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("configs/*.toml"))

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_FILE = re.compile(r"(?:configs|scripts|docs|tests|src)/[\w./-]*\w")
#: What a command line consists of, up to whatever ends it.
_END_OF_COMMAND = frozenset(("|", "&", "&&", ";", ">", ">>", "2>", "done"))


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def prose_of(document: str) -> str:
    """Return the text without its fenced blocks."""
    return _FENCE.sub("", text_of(document))


def section(document: str, heading: str) -> str:
    """Return the text below `heading`, up to the next heading of its level or a higher one."""
    text = text_of(document)
    level, start = next(
        (len(found[0].split()[0]), found.end())
        for found in _HEADING.finditer(text)
        if found[1] == heading
    )
    end = re.compile(rf"^#{{1,{level}}} ", re.MULTILINE).search(text, start)
    return text[start : end.start() if end else len(text)]


def table(heading: str, first: str, document: str = "docs/protocol.md") -> list[list[str]]:
    """Return the rows of the table below `heading` whose first column is called `first`."""
    tables = re.findall(r"(?:^\|.*\n)+", section(document, heading), re.MULTILINE)
    found = [lines for text in tables if cells_of((lines := text.splitlines())[0])[0] == first]
    assert len(found) == 1, f"{len(found)} tables of {first!r} below {heading!r}"
    return [cells_of(line) for line in found[0][2:]]


def cells_of(line: str) -> list[str]:
    return [cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def numbers(rows: list[list[str]], column: int = 1) -> dict[str, int]:
    return {row[0]: int(row[column], 0) for row in rows}


def members(enum: type[IntEnum]) -> dict[str, int]:
    return {member.name: member.value for member in enum}


# ---- links and files


def slug_of(heading: str) -> str:
    """Return the anchor that the usual renderers make of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: str) -> None:
    dead = []
    for link in _LINK.findall(prose_of(document)):
        place, _, anchor = link.partition("#")
        target = (ROOT / document).parent / place if place else ROOT / document
        anchors = map(slug_of, _HEADING.findall(target.read_text())) if anchor else [anchor]
        if not target.exists() or anchor not in anchors:
            dead.append(link)

    assert not dead


@pytest.mark.parametrize("document", [*DOCUMENTS, *CONFIGS])
def test_every_file_that_is_named_exists(document: str) -> None:
    named = set(_FILE.findall(text_of(document)))

    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_configuration_is_named_in_a_document() -> None:
    named = "\n".join(map(text_of, DOCUMENTS))

    assert [path for path in CONFIGS if Path(path).name not in named] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_nobody_and_no_machine_is_named(document: str) -> None:
    text = text_of(document)

    addresses = re.findall(r"[\w.+-]+@[\w-]+\.[A-Za-z]\w*", text)
    folders = re.findall(r"(?<![\w~.])/(?:home|root|work|Users|opt|srv|var)/\w+", text)

    assert (set(addresses) - {"user@example.com"}, folders) == (set(), [])


# ---- names in the code


def test_every_owner_of_state_exists() -> None:
    rows = table("Who owns which state", "state", "docs/architecture.md")
    names = [name for row in rows for name in re.findall(r"[a-z_.]+\.[A-Z]\w+", row[1])]

    missing = [name for name in names if not exists_in_code(name)]

    assert len(names) >= len(rows)
    assert not missing


def exists_in_code(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    return hasattr(importlib.import_module(f"warren.{module}"), attribute)


def test_every_module_of_the_pure_floors_is_on_the_map() -> None:
    text = section("docs/architecture.md", "Floors")

    modules = {
        path.stem
        for floor in ("protocol", "directory")
        for path in (ROOT / "src/warren" / floor).glob("*.py")
    }
    # Small helpers of one neighbour each.
    helpers = {"__init__", "ciphers", "exchange", "chance", "guard_state", "parameters"}
    helpers |= {"path_search", "relays"}

    assert {name for name in modules - helpers if f"`{name}`" not in text} == set()


def test_every_function_that_a_decision_cites_exists() -> None:
    cited = [
        name
        for document in DOCUMENTS
        if document.startswith("docs/decisions/")
        for name in re.findall(r"`([A-Z]\w+\.\w+|\w+\.[A-Z]\w+)\b", text_of(document))
    ]
    source = "\n".join(path.read_text() for path in (ROOT / "src/warren").rglob("*.py"))

    missing = [
        name
        for name in cited
        if not all(re.search(rf"\b{part}\b", source) for part in name.split("."))
    ]

    assert cited
    assert not missing


# ---- commands


def command_lines(document: str) -> Iterator[list[str]]:
    """Yield the words of every command line in fenced shell blocks and in inline code."""
    fenced = [body for kind, body in _FENCE.findall(text_of(document)) if kind == "sh"]
    lines = [
        line for body in fenced for line in body.replace("\\\n", " ").splitlines() if line.strip()
    ]
    for text in (*lines, *_INLINE.findall(prose_of(document))):
        try:
            yield shlex.split(text, comments=True)
        except ValueError:  # no command: a quotation
            continue


def after(words: list[str], program: str) -> Iterator[list[str]]:
    """Yield what follows `program` in a command line, up to its end."""
    for start, word in enumerate(words):
        if word == program:
            rest = words[start + 1 :]
            ends = (at for at, each in enumerate(rest) if each in _END_OF_COMMAND)
            yield rest[: next(ends, len(rest))]


def unknown_in(words: list[str]) -> list[str]:
    """Return what a ``warren`` command line names that does not exist."""
    command: click.Command = warren
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(click.Context(command), rest[0])
        if found is None:
            return [rest[0]] if re.fullmatch(r"[a-z]+", rest[0]) else []
        command, _ = found, rest.pop(0)
    if "--" in rest:  # what stands behind is another program's
        del rest[rest.index("--") :]
    known = {option for parameter in command.params for option in parameter.opts}
    known |= {"--help", "-h", *(("--version",) if command is warren else ())}
    return [word for word in rest if word.startswith("-") and word.split("=")[0] not in known]


@pytest.mark.parametrize("document", [*DOCUMENTS, *CONFIGS])
def test_every_command_and_option_exists(document: str) -> None:
    lines = list(command_lines(document))
    if document in CONFIGS:  # there, commands stand in comments
        commented = re.findall(r"^# {2,}(warren .*)$", text_of(document), re.MULTILINE)
        lines = [shlex.split(line) for line in commented if not line.endswith("...")]
        assert lines or document in ("configs/network.toml", "configs/authority.toml")

    unknown = [
        (program, word)
        for words in lines
        for program, prefix in (("warren", []), ("scripts/lab", ["lab"]))
        for rest in after(words, program)
        for word in unknown_in([*prefix, *rest])
    ]

    assert not unknown


def test_every_option_of_a_simulation_exists() -> None:
    shown = {
        word.partition("=")[0]
        for document in DOCUMENTS
        for words in command_lines(document)
        for rest in after(words, "scripts/simulate")
        for word in rest
        if word.startswith("-")
    }

    assert {"--seed", "--sweep", "--scheduler"} <= shown
    assert shown <= {*all_options(simulate), "--help"}


def test_the_documents_show_every_command() -> None:
    shown = {
        tuple(rest[:2] if rest[0] == "network" else rest[:1])
        for document in DOCUMENTS
        for words in command_lines(document)
        for rest in after(words, "warren")
        if rest
    }

    assert {("proxy",), ("relay",), ("authority",), ("status",), ("keys",)} <= shown
    assert {("network", "create"), ("network", "checksum")} <= shown
    assert {("env",), ("browser",), ("run",)} <= shown


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_option_that_is_only_mentioned_exists(document: str) -> None:
    known = {*all_options(warren), *all_options(simulate), "--fast", "--long"}

    mentioned = {
        text.split()[0] for text in _INLINE.findall(prose_of(document)) if text.startswith("--")
    }

    assert mentioned <= known


def all_options(command: click.Command) -> Iterator[str]:
    for parameter in command.params:
        yield from parameter.opts
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), name)
            assert found is not None
            yield from all_options(found)


def test_a_wrong_option_would_be_noticed() -> None:
    assert unknown_in(["relay", "--config", "x", "--port", "1"]) == ["--port"]
    assert unknown_in(["network", "destroy"]) == ["destroy"]
    assert list(after(["a", "warren", "keys", "|", "b"], "warren")) == [["keys"]]


def test_the_parts_of_the_test_script_are_those_it_knows() -> None:
    script = text_of("scripts/test")

    named = {
        word
        for document in DOCUMENTS
        for words in command_lines(document)
        for rest in after(words, "scripts/test")
        for word in rest
        if word.startswith("--")
    }

    assert {"--fast", "--long"} == named
    assert "--fast | --long)" in script


def test_the_policies_are_the_profiles() -> None:
    rows = table("An exit", "policy", "docs/operating.md")

    assert {row[0] for row in rows} == set(PROFILES) == set(UDP_PROFILES)


# ---- the numbers of the protocol


@pytest.mark.parametrize(
    ("heading", "first", "enum"),
    [
        ("1 Names and keys", "suite", Suite),
        ("3 Cells", "command", Command),
        ("5 Relay messages", "message", Message),
        ("5 Relay messages", "status of EXTENDED", ExtendStatus),
        ("5 Relay messages", "flag of BEGIN", BeginFlags),
        ("5.1 Streams", "reason", EndReason),
        ("5.4 Resuming", "flag of a standing", StandingFlags),
        ("7.2 The envelope", "kind", Kind),
    ],
)
def test_numbers_are_those_of_the_code(heading: str, first: str, enum: type[IntEnum]) -> None:
    assert numbers(table(heading, first)) == members(enum)


def test_first_bytes_are_those_of_the_code() -> None:
    rows = table("2.1 Handshakes", "first byte")

    told = {int(first, 16): (pattern, Suite[suite]) for first, pattern, suite in rows}

    known = handshake._FIRST_BYTES
    assert told == {first: (pattern.name, suite) for first, (pattern, suite) in known.items()}


@pytest.mark.parametrize(
    ("heading", "lengths"),
    [
        (
            "2.1 Handshakes",
            {
                "X25519 key": identity.KEY_LENGTH,
                "ML-KEM-768 encapsulation key": identity.KEM_PUBLIC_LENGTH,
                "ML-KEM-768 ciphertext": identity.KEM_CIPHERTEXT_LENGTH,
                "AEAD tag": TAG_LENGTH,
                "NK message 1": noise.NKHFS.message_length(1),
                "NK message 2": noise.NKHFS.message_length(2),
                "IK message 1 on a link": handshake._LINK_LENGTHS[noise.IKHFS],
                "IK message 2": noise.IKHFS.message_length(2),
                "credentials in IK message 1": handshake._CREDENTIALS_LENGTH,
            },
        ),
        (
            "3 Cells",
            {
                "cell": cells.CELL_LENGTH,
                "cell header": cells.HEADER_LENGTH,
                "cell body": cells.BODY_LENGTH,
            },
        ),
    ],
)
def test_lengths_are_those_of_the_code(heading: str, lengths: Mapping[str, int]) -> None:
    assert numbers(table(heading, "length")) == lengths


def test_the_lengths_inside_of_bodies_are_those_of_the_code() -> None:
    bodies = {row[0]: row[-1] for row in table("3 Cells", "command")}
    data = {row[0]: row[-1] for row in table("5 Relay messages", "message")}

    assert bodies["CREATE"].endswith(f"message 1 ({cells.NK_MESSAGE_1_LENGTH})")
    assert bodies["CREATED"] == f"message 2 ({cells.NK_MESSAGE_2_LENGTH})"
    assert bodies["CREDIT"].startswith(f"1 to {cells.MOST_GRANTS} times")
    assert data["EXTEND"].endswith(f"message 1 ({cells.NK_MESSAGE_1_LENGTH})")
    assert data["CREDIT"] == r"offset u64 \| limit u64"
    assert messages.STREAM_CREDIT_LENGTH == 16


def test_the_limits_of_resuming_are_those_of_the_code() -> None:
    assert numbers(table("5.4 Resuming", "what")) == {
        "bytes of a name": resume._DIGEST_LENGTH,
        "bytes of a MAC": resume._DIGEST_LENGTH,
        "bytes of a standing": messages.STANDING_LENGTH,
        "names of one RESUME": resume.MOST_NAMES,
        "streams of one RESUME": MOST_STREAMS,
    }
    text = " ".join(section("docs/protocol.md", "5.4 Resuming").split())
    assert MOST_MIDDLES == 4
    assert "from four that are kept for each exit" in text
    assert f"at most {MOST_MOVES} times in ten minutes" in text
    assert MOVES_SECONDS == 600
    assert f"for {HOLD_SECONDS:.0f} s" in text
    assert HOLD_SECONDS == RESUME_SECONDS
    assert f"up to {CLOSING_SECONDS:.0f} s" in text
    assert f"at most {holdings.MOST_HELD_STREAMS} streams" in text
    assert f"{ENOUGH_UNSENT // 1024} KiB more" in text


def test_payloads_are_those_of_the_code() -> None:
    rows = table("4 Onion bodies", "hops")

    header = messages.MESSAGE_HEADER_LENGTH
    known = [[n, payload_length(n), payload_length(n) - header] for n in range(1, 8)]
    assert [[int(number) for number in row] for row in rows] == known
    assert len(known) == cells.MOST_HOPS


def test_limits_of_documents_are_those_of_the_code() -> None:
    assert numbers(table("7.2 The envelope", "limit")) == {
        "bytes of a descriptor": descriptor.DESCRIPTOR_LIMIT,
        "bytes of a vote": votes.VOTE_LIMIT,
        "bytes of a consensus": CONSENSUS_LIMIT,
        "relays of a network": votes.MOST_RELAYS,
        "bytes of a string": descriptor.MOST_STRING_BYTES,
        "entries of a list": descriptor.MOST_LIST,
        "rules of a policy": descriptor.MOST_RULES,
        "bytes of a detached signature": SIGNATURE_SIZE,
    }


def test_the_bounds_on_datagrams_are_those_of_the_code() -> None:
    limits = UdpLimits()

    assert numbers(table("5.2 Datagrams", "bound on datagrams")) == {
        "bytes of a datagram": MOST_DATAGRAM,
        "bytes that wait in one direction": MOST_WAITING,
        "remotes of an association": limits.remotes,
        "datagrams to a remote for no answer, and for each": limits.unanswered,
        "datagrams in a minute to one that answers nobody": limits.unanswered_by_all,
        "seconds without traffic": limits.idle_seconds,
        "associations of a circuit": limits.associations_per_circuit,
        "associations of an exit": limits.associations,
    }
    assert limits.associations == RelayLimits().associations
    assert limits.associations_per_circuit == RelayLimits().associations_per_circuit


def keys_of(heading: str) -> set[str]:
    rows = table(heading, "key")
    return {key for row in rows for key in row[0].split(", ")}


@pytest.mark.parametrize(
    ("heading", "content"),
    [
        ("7.3 Descriptor", descriptor._Content),
        ("7.4 Votes and signatures", votes._Content),
        ("7.5 Consensus", importlib.import_module("warren.directory.consensus")._Content),
    ],
)
def test_keys_of_documents_are_those_of_the_code(
    heading: str, content: type[msgspec.Struct]
) -> None:
    assert keys_of(heading) == {field.name for field in msgspec.structs.fields(content)}


def test_flags_are_those_of_the_code() -> None:
    assert {row[0] for row in table("7.5 Consensus", "flag")} == {flag.value for flag in Flag}


def test_parameters_are_those_of_the_code() -> None:
    info = msgspec.inspect.type_info(Parameters)
    assert isinstance(info, msgspec.inspect.StructType)
    known = []
    for field in info.fields:
        assert isinstance(field.type, msgspec.inspect.IntType)
        known.append([field.name, field.default, field.type.ge, field.type.le])

    rows = table("7.6 Parameters", "parameter")

    assert [[row[0], *map(int, row[1:])] for row in rows] == known


def test_replies_to_applications_are_those_of_the_code() -> None:
    rows = table("9 Applications", "cause")

    told = {name: (int(socks5), int(status), error) for name, socks5, status, error in rows}

    known = {r.name: (f.socks5, f.status, f.error) for r, f in BY_REASON.items()}
    assert told == known


def test_the_bounds_of_answers_are_those_of_the_code() -> None:
    questions = section("docs/protocol.md", "5.3 Questions")
    port = " ".join(section("docs/protocol.md", "9 Applications").split())
    shortest, longest, none = (
        resolution.SHORTEST_TTL,
        resolution.LONGEST_TTL,
        resolution.NOT_FOUND_TTL,
    )

    assert f"{shortest} to {longest}; {none} for an answer without addresses" in questions
    assert f"| count | 1 | 0 to {resolution.MOST_ADDRESSES};" in questions
    least, most = (len(Address(name, 0).encode()) for name in ("a", ".".join(["a"] * 127)))
    assert f"| addresses | {least} to {most} each |" in questions
    assert f"{dns_queries.LEAST_DATAGRAM} bytes, or what EDNS says up to " in port
    assert f" up to {dns_queries.MOST_DATAGRAM};" in port
    assert f"more than {dns_queries.MOST_QUERY_BYTES} bytes | FORMERR" in port


def test_what_no_exit_opens_is_the_table_of_the_code() -> None:
    text = " ".join(section("docs/threat-model.md", "What an exit never opens").split())
    four, six = text.partition("IPv6: ")[::2]
    six = six.partition(" An IPv4 address inside")[0]

    told = {name.rstrip(".,") for name in four.split() if name[0].isdigit()}

    assert told == {network.removesuffix("/32") for network in REFUSED_V4}
    inside = {network for network in REFUSED_V6 if network[0] in "23" and network != "2000::/3"}
    assert set(re.findall(r"[0-9a-f:]+/\d+", six)) == inside | {"2000::/3"}
    assert set(re.findall(r"`\.([a-z.]+)`", text)) == set(FORBIDDEN_SUFFIXES)


# ---- the network by hand, as the README has it


@pytest.mark.processes
@pytest.mark.needs("curl")
@pytest.mark.timeout(300)
def test_the_network_by_hand_works_as_written(tmp_path: Path) -> None:
    *blocks, last = shell_blocks("A network by hand")
    script = "\n".join((*blocks, "touch ../is-up", "read -r _", last, "wait"))
    port, site = free_port(), free_port()
    shutil.copytree(ROOT / "configs", tmp_path / "configs")

    with running_shell(for_this_test(script, port, site), tmp_path) as shell:
        wait_until((tmp_path / "is-up").exists, shell)
        wait_until(lambda: relays_listed(tmp_path / "trial") == 5, shell)
        fetched = fetch(port, site)
        assert shell.stdin is not None
        shell.stdin.write(b"\n")
        shell.stdin.close()
        code = shell.wait(30)

    said = (tmp_path / "output").read_text()
    assert said.count("Hello through three relays.") == 1, said
    assert "\nProxy of the network trial, running for " in said
    assert fetched == "Hello through three relays.\n"
    assert code in (0, 128 + signal.SIGTERM), said


def shell_blocks(heading: str) -> list[str]:
    return [body for kind, body in _FENCE.findall(section("README.md", heading)) if kind == "sh"]


def for_this_test(script: str, port: int, site: int) -> str:
    """Return `script` with addresses of its own, so that it may run beside anything else."""
    host = f"{random.randrange(1, 255)}.{random.randrange(1, 255)}"
    changes = {
        "warren proxy --config proxy.toml": f"warren proxy --listen 127.0.0.1:{port} "
        "--config proxy.toml",
        "127.0.0.1:1080": f"127.0.0.1:{port}",
        "8000": str(site),
        ".0.1:94": f".{host}:94",
    }
    assert all(old in script for old in changes)
    return reduce(lambda text, change: text.replace(*change), changes.items(), script)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class running_shell:  # noqa: N801  used like a function
    """Run `script` in a folder while inside; at the end nothing of it is left."""

    def __init__(self, script: str, folder: Path) -> None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        with (folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                ["bash", "-eu", "-c", script],
                cwd=folder,
                env={**os.environ, "PATH": path},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def __enter__(self) -> "subprocess.Popen[bytes]":
        return self.process

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()


def wait_until(is_so: Callable[[], bool], shell: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert shell.poll() is None, "the shell ended early"
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.2)


def relays_listed(trial: Path) -> int:
    try:
        directory = ask(find_socket(trial / "state/proxy"))["directory"]
    except ConfigError:
        return 0
    assert isinstance(directory, dict)
    return int(directory["relays_listed"])


def fetch(port: int, site: int) -> str:
    command = ["curl", "-sS", "-x", f"socks5h://127.0.0.1:{port}", f"http://127.0.0.1:{site}/"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
