"""A process that writes every file a peer keeps, killed at a random moment, again and again (T38).

    python -m tests.support.killed_writer FOLDER KILLS SEED

Each round forks a child that goes on where the last one was stopped, kills it, and reads what
is there as a start would. Every file must tell of the step that was finished last or of the one
that had begun, and nothing half written may be left. It prints what it found as a line of JSON.
A process of its own, because it forks.
"""

import json
import mmap
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import structlog

from tests.support.directories import (
    NETWORK,
    NOW,
    consensus_document,
    consensus_of,
    vote_document,
    vote_of,
)
from warren.directory.votes import read_vote
from warren.errors import WarrenError
from warren.identity import PeerId, SystemKeys
from warren.key_files import KeyFiles
from warren.roles.archive import Archive
from warren.roles.guard_keeper import GuardKeeper
from warren.roles.signing_record import SigningRecord
from warren.storage import LOCK, DataFolder

HOUR = 3600
FILES = ("link.keys", "onion.keys", "guards.json", "consensus", "signed", "vote")
#: From none at all to a few times what a write takes.
MOST_SECONDS = 0.02


class Steps:
    """Own the numbers of the last step begun and finished with each file, in shared memory."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 16 * len(FILES))

    def _at(self, name: str, half: int) -> slice:
        start = 16 * FILES.index(name) + half
        return slice(start, start + 8)

    def begin(self, name: str) -> int:
        number = self.finished(name) + 1
        self._memory[self._at(name, 0)] = number.to_bytes(8)
        return number

    def finish(self, name: str, number: int) -> None:
        self._memory[self._at(name, 8)] = number.to_bytes(8)

    def begun(self, name: str) -> int:
        return int.from_bytes(self._memory[self._at(name, 0)])

    def finished(self, name: str) -> int:
        return int.from_bytes(self._memory[self._at(name, 8)])


class Peer:
    """Be all that a peer keeps in one folder, as it is opened at a start."""

    def __init__(self, path: Path) -> None:
        self.folder = DataFolder(path)
        with self.folder.held():
            self.files = KeyFiles(self.folder, SystemKeys())
            self.identity = self.files.identity()
            self.time = float(NOW)
            self.archive = Archive(NETWORK, self.folder, lambda: self.time)
            self.guards = GuardKeeper(
                self.folder, rng=Random(1), wall_clock=lambda: self.time + HOUR
            )
            self.record = SigningRecord(self.folder)
            if not self.folder.names("guards.json"):
                self.guards.candidates(consensus_of())

    def write(self, name: str, number: int) -> None:
        """Take step `number` with the file `name`."""
        if name == "link.keys":
            self.files.rotate("link", number)
        elif name == "onion.keys":
            self.files.rotate("onion", number)
        elif name == "guards.json":
            self.time = NOW + HOUR * number
            self.guards.contacted(consensus_of().relays[0].peer_id)
        elif name == "consensus":
            self.time = NOW + number
            self.archive.offer(consensus_document(valid_after=NOW + number))
        elif name == "signed":
            self.record.commit(number, number.to_bytes(32))
        else:
            self.folder.keep("vote", vote_document(vote_of(0, [], valid_after=number), 0))

    def step(self, name: str) -> int:
        """Return the last step that the file `name` tells of; 0 when there is none."""
        content = self.folder.read(name)
        if content is None:
            return 0
        if name in ("link.keys", "onion.keys"):
            return int(json.loads(content)["since"])
        if name == "guards.json":
            contacts = [guard["contacted"] for guard in json.loads(content)["guards"]]
            return max(((date - NOW) // HOUR - 1 for date in contacts if date), default=0)
        if name == "consensus":
            assert self.archive.newest is not None, "the consensus was set aside"
            return self.archive.newest.valid_after - NOW
        if name == "signed":
            return max(self.record._digests)
        return read_vote(content, NETWORK).valid_after


def write_for_ever(path: Path, steps: Steps, rng: Random) -> None:
    """Be the child."""
    peer = Peer(path)
    while True:
        name = rng.choice(FILES)
        number = steps.begin(name)
        peer.write(name, number)
        steps.finish(name, number)


def begin(path: Path) -> None:
    """Be the child in the first moments of a peer."""
    Peer(path)
    time.sleep(60)


def killed_once(act: Callable[[], None], seconds: float) -> None:
    """Run `act` in a child and kill it after `seconds`."""
    child = os.fork()
    if child == 0:
        try:
            act()
        finally:
            os._exit(1)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the child ended by itself"


def check(path: Path, steps: Steps, found: Counter[str]) -> None:
    """Open the folder as a start does, and count what is old and what is new."""
    peer = Peer(path)
    for name in FILES:
        finished, begun, step = steps.finished(name), steps.begun(name), peer.step(name)
        assert step in (finished, begun), f"{name} tells of {step}, not {finished} or {begun}"
        if begun > finished:
            found["new" if step == begun else "old"] += 1
        steps.finish(name, step)
    odd = peer.folder.names("*") - {*FILES, "identity.key", LOCK}
    assert not odd, f"left behind: {odd}"


def main(folder: Path, kills: int, seed: int) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("error"))
    rng, steps, found = Random(seed), Steps(), Counter[str](kills=0, old=0, new=0)
    peer_id: PeerId | None = None
    while found["kills"] < kills:
        killed_once(
            lambda: write_for_ever(folder / "peer", steps, rng), rng.uniform(0, MOST_SECONDS)
        )
        rng.random()  # the next child takes other steps
        check(folder / "peer", steps, found)
        identity = Peer(folder / "peer").identity.peer_id
        assert peer_id in (None, identity), "it became somebody else"
        peer_id = identity
        found["kills"] += 1
    for number in range(kills // 10):  # the very first moments of a peer
        new = folder / f"new{number}"
        killed_once(partial(begin, new), rng.uniform(0, MOST_SECONDS / 8))
        again = Peer(new)
        assert not again.folder.names("*.tmp")
        found["kills"] += 1
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    except WarrenError as error:
        sys.exit(f"a start failed: {error}")
