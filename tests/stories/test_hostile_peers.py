"""Peers with keys and bad manners: they cost themselves their links, and others nothing (T11).

One has the identity of a relay that the consensus lists and whose process is gone, so exits serve
what comes from it. What each thing out of order costs is tested in ``protocol``; here it is what
real processes have left when thousands of them came in any order: time, memory, files, and a log
that tells of no bug.
"""

import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.hostile_peer import KEYS, HostileLink, Mischief, credentials_of
from tests.support.journeys import (
    MIB,
    check_logs,
    read_answer,
    request,
    statistics,
    through,
    wait_until,
    watching_memory,
)
from tests.support.labs import RunningLab, is_alive, running_lab
from tests.support.paper import Side
from tests.support.web_origin import NAME, Origin
from warren.addresses import Address
from warren.directory.network_file import NetworkFile
from warren.errors import ProtocolError
from warren.identity import Hop, Identity, PeerId
from warren.key_files import KeyFiles
from warren.lab.origin import digest
from warren.protocol.handshake import initiate_link
from warren.storage import DataFolder

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

ATTACKERS, LINKS, STEPS = 4, 120, (10, 40)
#: What a page may take meanwhile: a second, and five times as long on a busy machine.
PAGE_SECONDS = 1 * 5
MOST_GROWTH = 48 * MIB
#: What a process may have open more than before, for a while: links among the peers themselves.
FEW_FILES, FEW_LINES = 15, 10


@dataclass
class Scene:
    """Own a lab of which one relay is dead, with its identity, and what others do in it."""

    lab: RunningLab
    origin: Origin
    network: NetworkFile
    identity: Identity
    outcomes: Counter[str] = field(default_factory=Counter)

    def fetch(self) -> float:
        """Fetch a page as others do; return how many seconds it took."""
        begun = time.monotonic()
        with through(self.lab.proxy, Address(NAME, self.origin.http.port)) as sock:
            request(sock, "/bytes/10000")
            assert read_answer(sock)[0] == digest(10_000)
        return time.monotonic() - begun

    def hop_of(self, peer: dict[str, Any]) -> Hop:
        """Return how to reach `peer`, a relay or an authority."""
        authorities = {str(each.hop.peer_id): each.hop for each in self.network.authorities}
        return authorities.get(peer["id"]) or self.lab.entry_of(peer["name"]).hop

    def mischief(self, seed: int) -> Mischief:
        """Return a hostile will that knows this lab."""
        origin = self.origin
        targets = [origin.http, origin.closed, Address("10.0.0.1", 80)]
        targets += [Address(NAME, origin.http.port), Address("nowhere.example", 80)]
        relays = [*self.lab.of_role("relay"), *self.lab.of_role("exit")]
        peers = [PeerId.parse(each["id"]) for each in relays] + [PeerId(bytes(32))]
        return Mischief(random.Random(seed), targets, peers, [])

    def attack(self, hop: Hop, seed: int, *, as_relay: bool) -> None:
        """Link to `hop` again and again, and break the rules until it has had enough."""
        will = self.mischief(seed)
        for _ in range(LINKS):
            try:
                self._visit(hop, will, as_relay=as_relay)
                self.outcomes["lived"] += 1
            except (ConnectionError, ProtocolError, TimeoutError):
                self.outcomes["cut off"] += 1

    def _visit(self, hop: Hop, will: Mischief, *, as_relay: bool) -> None:
        network_id = self.network.network_id
        credentials = credentials_of(self.identity, network_id) if as_relay else None
        link = HostileLink(network_id, hop, credentials)
        try:
            link.greet()
            for _ in range(will.rng.choice(STEPS)):
                will.step(link)
        finally:
            link.close()

    def greet(self, hop: Hop, seed: int) -> None:
        """Begin handshakes with `hop` that are cut, changed, said twice, or no handshakes."""
        rng, whole = random.Random(seed), set[bool]()
        for _ in range(LINKS):
            words = Side(initiate_link(self.network.network_id, hop, KEYS, None)).sent
            cut, place = rng.randrange(len(words)), rng.randrange(len(words))
            flipped = bytes((words[place] ^ 1 << rng.randrange(8),))
            saying = rng.choice(
                [
                    words[:cut],
                    words[:place] + flipped + words[place + 1 :],
                    words + words,
                    words + rng.randbytes(5000),
                    rng.randbytes(rng.randrange(1, 3000)),
                    b"GET / HTTP/1.1\r\n\r\n",
                ]
            )
            try:
                with socket.create_connection((hop.address.host, hop.address.port), 5) as sock:
                    sock.settimeout(0.02)
                    sock.sendall(saying)
                    whole.add(bool(sock.recv(65536)))
            except TimeoutError:
                self.outcomes["silence"] += 1
            except ConnectionError:
                self.outcomes["cut off"] += 1


@pytest.fixture(scope="module")
def scene(origin: Origin) -> Iterator[Scene]:
    options = [word for each in origin.addresses for word in ("--allow-target", str(each))]
    names = ["--host", f"{NAME}=127.0.0.1"]
    with running_lab("--relays", "6", "--exits", "2", *options, *names) as lab:
        folder, network = lab.folder, lab.network
        dead = lab.of_role("relay")[-1]
        os.kill(dead["pid"], signal.SIGKILL)
        wait_until(lambda: not is_alive(dead["pid"]), 10, "the death of a relay")
        identity = KeyFiles(DataFolder(folder / dead["name"]), KEYS).identity()
        lab.ready["processes"].remove(dead)
        yield Scene(lab, origin, network, identity)
        check_logs(folder, NAME)


def open_files(peer: dict[str, Any]) -> int:
    return len(list(Path(f"/proc/{peer['pid']}/fd").iterdir()))


def log_lines(scene: Scene) -> int:
    return sum(path.read_bytes().count(b"\n") for path in scene.lab.folder.rglob("*.log"))


def while_others_work(scene: Scene, attack: Callable[[int], None]) -> list[float]:
    """Let all attackers do `attack`, each with its number; return what pages took meanwhile."""
    threads = [threading.Thread(target=attack, args=(number,)) for number in range(ATTACKERS)]
    for thread in threads:
        thread.start()
    waited = []
    while any(thread.is_alive() for thread in threads):
        waited.append(scene.fetch())
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    return [*waited, scene.fetch()]


def test_a_relay_that_breaks_every_rule_harms_nobody(scene: Scene) -> None:  # T11
    victim = scene.lab.of_role("exit")[0]
    hop, scene.outcomes = scene.lab.entry_of(victim["name"]).hop, Counter()
    before = statistics(scene.lab, victim["name"])
    files, lines = open_files(victim), log_lines(scene)

    with watching_memory(scene.lab) as growth:
        waited = while_others_work(
            scene, lambda number: scene.attack(hop, number, as_relay=True)
        )  # fmt: skip

    after = statistics(scene.lab, victim["name"])
    assert max(waited) < PAGE_SECONDS
    assert after["exit"]["connected"] > before["exit"]["connected"] + 20
    assert scene.outcomes["cut off"] > ATTACKERS * LINKS / 4
    assert growth.most < MOST_GROWTH

    def is_over() -> bool:
        # Streams of circuits that broke no rule are held for a minute, with their sockets.
        held = statistics(scene.lab, victim["name"])["held"]["streams"]
        return open_files(victim) <= files + int(held) + FEW_FILES

    wait_until(is_over, 30, "the end of all that was opened")
    assert log_lines(scene) <= lines + FEW_LINES


@contextmanager
def leaving_nothing(scene: Scene, victim: dict[str, Any]) -> Iterator[None]:
    """Check that what is done inside leaves no memory, files and log lines behind at `victim`."""
    files, lines = open_files(victim), log_lines(scene)
    with watching_memory(scene.lab) as growth:
        yield
    assert growth.most < MOST_GROWTH
    wait_until(lambda: open_files(victim) <= files + FEW_FILES, 30, "the end of all links")
    assert log_lines(scene) <= lines + FEW_LINES


@pytest.mark.parametrize("role", ["relay", "authority"])
def test_a_client_that_breaks_every_rule_harms_nobody(scene: Scene, role: str) -> None:  # T11
    victim = scene.lab.of_role(role)[0]
    hop = scene.hop_of(victim)
    scene.outcomes = Counter()

    with leaving_nothing(scene, victim):
        waited = while_others_work(
            scene, lambda number: scene.attack(hop, number, as_relay=False)
        )  # fmt: skip

    assert max(waited) < PAGE_SECONDS
    assert scene.outcomes["cut off"] > ATTACKERS * LINKS / 4


@pytest.mark.parametrize("role", ["relay", "authority"])
def test_handshakes_that_are_none_harm_nobody(scene: Scene, role: str) -> None:  # T11
    victim = scene.lab.of_role(role)[1]
    hop = scene.hop_of(victim)

    with leaving_nothing(scene, victim):
        waited = while_others_work(scene, lambda number: scene.greet(hop, number))

    assert max(waited) < PAGE_SECONDS
