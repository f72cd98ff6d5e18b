"""Everything a peer keeps: killed while it writes (T38), damaged in a hundred ways (T40)."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from tests.support.directories import (
    NETWORK,
    NOW,
    authority_identity,
    consensus_document,
    consensus_of,
    vote_document,
    vote_of,
)
from warren.errors import ConfigError, LinkError, NewerSchema
from warren.identity import Hop, SystemKeys
from warren.key_files import KeyFiles, Rotating
from warren.roles.archive import Archive
from warren.roles.authority import Authority
from warren.roles.guard_keeper import GuardKeeper
from warren.roles.signing_record import SigningRecord
from warren.storage import DataFolder

KILLS = 500
WAYS = 100


def test_a_kill_at_any_moment_leaves_the_old_or_the_new(tmp_path: Path) -> None:  # T38
    command = [sys.executable, "-m", "tests.support.killed_writer", str(tmp_path), str(KILLS), "7"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

    ended = subprocess.run(
        command, check=False, env=environment, capture_output=True, text=True, timeout=55
    )

    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["kills"] >= KILLS
    assert found["old"] > 0  # some writes were cut off, and some of those had got through
    assert found["new"] > 0


# ---- T40


async def _nothing(*_: object, **__: object) -> bytes:
    raise LinkError("nobody there")


async def _no(_: Hop) -> bool:
    return False


def load_guards(folder: DataFolder) -> object:
    keeper = GuardKeeper(folder, rng=Random(1), wall_clock=lambda: float(NOW))
    return keeper.candidates(consensus_of())


def make_guards(folder: DataFolder) -> None:
    load_guards(folder)


def load_vote(folder: DataFolder) -> object:
    archive = Archive(NETWORK, None, lambda: float(NOW))
    identity = authority_identity(0)
    return Authority(identity, archive, folder, _nothing, _no, now=lambda: NOW).statistics()


def load_key(name: Rotating) -> Callable[[DataFolder], object]:
    return lambda folder: KeyFiles(folder, SystemKeys()).load(name, NOW).pairs


@dataclass
class Kept:
    """Hold how a file comes about, and what a start makes of it."""

    make: Callable[[DataFolder], object]
    load: Callable[[DataFolder], object]


VITAL = {
    "identity.key": Kept(
        lambda folder: KeyFiles(folder, SystemKeys()).identity(),
        lambda folder: KeyFiles(folder, SystemKeys()).identity().peer_id,
    ),
    "signed": Kept(
        lambda folder: SigningRecord(folder).commit(NOW, bytes(32)),
        lambda folder: SigningRecord(folder)._digests,
    ),
}
OTHERS = {
    "link.keys": Kept(load_key("link"), load_key("link")),
    "onion.keys": Kept(load_key("onion"), load_key("onion")),
    "guards.json": Kept(make_guards, load_guards),
    "consensus": Kept(
        lambda folder: folder.write("consensus", consensus_document()),
        lambda folder: Archive(NETWORK, folder, lambda: float(NOW)).newest,
    ),
    "vote": Kept(lambda folder: folder.write("vote", vote_document(vote_of(0, []), 0)), load_vote),
}


def mutations(content: bytes, rng: Random) -> Iterator[bytes]:
    """Yield ``WAYS`` contents that a disk, a crash or a person may have made of `content`."""
    yield b""
    yield bytes(len(content))
    yield b"\xff" * len(content)
    yield b"[" * 100_000  # as deep as no reader goes
    yield b'{"schema":' + b"9" * 5000 + b"}"
    yield content * 2
    yield content[::-1]
    for _ in range(WAYS - 7):
        damaged = bytearray(content)
        at = rng.randrange(len(content))
        kind = rng.randrange(5)
        if kind == 0:
            damaged[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del damaged[at:]
        elif kind == 2:
            del damaged[at : at + rng.randint(1, 8)]
        elif kind == 3:
            damaged[at:at] = rng.randbytes(rng.randint(1, 8))
        else:
            damaged[at : at + 512] = bytes(len(damaged[at : at + 512]))  # a sector of zeros
        yield bytes(damaged)


def put(folder: DataFolder, name: str, content: bytes) -> None:
    folder.write(name, content)


@pytest.mark.parametrize("name", VITAL)
async def test_a_damaged_identity_or_record_stops_the_start_and_stays(
    name: str, tmp_path: Path
) -> None:  # T40
    folder = DataFolder(tmp_path)
    VITAL[name].make(folder)
    expected, good = VITAL[name].load(folder), folder.read(name)
    assert good is not None
    stopped = 0

    for damaged in mutations(good, Random(name)):
        put(folder, name, damaged)
        try:
            found = VITAL[name].load(folder)
        except ConfigError:
            stopped += 1
        else:
            assert found == expected  # a letter in the other case, for one, is no damage
        assert folder.read(name) == damaged

    assert stopped > WAYS * 9 // 10
    assert folder.names("*") == {name}


@pytest.mark.parametrize("name", OTHERS)
async def test_any_other_damaged_file_is_set_aside_and_made_again(
    name: str, tmp_path: Path
) -> None:  # T40
    folder = DataFolder(tmp_path)
    OTHERS[name].make(folder)
    good = folder.read(name)
    assert good is not None
    kept: list[bytes] = []

    for damaged in mutations(good, Random(name)):
        put(folder, name, damaged)
        OTHERS[name].load(folder)
        aside = f"{name}.bad.{len(kept) + 1}"
        if aside in folder.names("*"):
            kept.append(damaged)
            assert folder.read(aside) == damaged
            assert folder.read(name) != damaged
        else:  # still one of its kind: another date, for one
            assert folder.read(name) is not None

    assert len(kept) > WAYS // 2


@pytest.mark.parametrize("name", VITAL | OTHERS)
@pytest.mark.parametrize("what", ["folder", "link", "mode", "owner"])
async def test_what_others_may_have_put_there_is_not_used(
    name: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # T40
    folder = DataFolder(tmp_path / "state")
    kept = (VITAL | OTHERS)[name]
    kept.make(folder)
    path = folder.path / name
    if what == "mode":
        path.chmod(0o666)
    elif what == "owner":
        _give_away(path, monkeypatch)
    else:
        path.replace(tmp_path / "elsewhere")
        path.mkdir() if what == "folder" else path.symlink_to(tmp_path / "elsewhere")

    if name in VITAL:
        with pytest.raises(ConfigError, match=name):
            kept.load(folder)
        assert folder.names("*") == {name}
    else:
        kept.load(folder)
        assert f"{name}.bad.1" in folder.names("*")


def _give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file belong to somebody else: really, or for an ordinary user by what stat says."""
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
        return
    inode, fstat = path.stat().st_ino, os.fstat

    def of_another(descriptor: int) -> os.stat_result:
        status = fstat(descriptor)
        if status.st_ino != inode:
            return status
        return os.stat_result((*status[:4], 12345, *status[5:10]))

    monkeypatch.setattr(os, "fstat", of_another)


@pytest.mark.parametrize("name", ["link.keys", "onion.keys", "guards.json"])
async def test_a_file_of_a_later_version_is_kept_for_it(name: str, tmp_path: Path) -> None:  # REL-5
    folder = DataFolder(tmp_path)
    OTHERS[name].make(folder)
    content = json.loads(folder.read(name) or b"")
    newer = json.dumps(content | {"schema": content["schema"] + 1, "and": "more"}).encode()
    put(folder, name, newer)

    OTHERS[name].load(folder)

    assert folder.read(f"{name}.newer.1") == newer
    again = folder.read(name)
    assert again is not None
    assert json.loads(again)["schema"] == content["schema"]


def test_an_identity_of_a_later_version_stops_the_start(tmp_path: Path) -> None:  # REL-5
    folder = DataFolder(tmp_path)
    VITAL["identity.key"].make(folder)
    content = json.loads(folder.read("identity.key") or b"")
    put(folder, "identity.key", json.dumps(content | {"schema": 2, "and": "more"}).encode())

    with pytest.raises(NewerSchema, match="use a later version"):
        VITAL["identity.key"].load(folder)


def test_key_files_without_a_schema_are_of_the_first(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    identity = KeyFiles(folder, SystemKeys()).identity()
    content = json.loads(folder.read("identity.key") or b"")
    del content["schema"]
    put(folder, "identity.key", json.dumps(content).encode())

    assert KeyFiles(folder, SystemKeys()).identity().peer_id == identity.peer_id
