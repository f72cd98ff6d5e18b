"""The keys a peer keeps on disk: who it is, and the link and onion keys that come and go.

Every file is 0600 and names the public half beside the private one, so that damage is noticed.
A damaged identity stops the start: to go on would mean to become somebody else without a word.
So does a damaged link key of an authority, which stands in the network file. Any other link or
onion key that is damaged is set aside and replaced, because the next descriptor announces the new
one anyway. When the keys change is decided by the role that uses them (protocol §1).
"""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from warren.errors import ConfigError, NewerSchema
from warren.identity import KEY_LENGTH, Identity, KeyPair, KeySource
from warren.storage import DataFolder

logger = structlog.get_logger()

Rotating = Literal["link", "onion"]

#: Of the files; one without it is of the first.
SCHEMA = 1
IDENTITY_FILE = "identity.key"


@dataclass(frozen=True)
class RotatingKeys:
    """Hold a key that is replaced now and then, and the one before it while it still counts.

    ``since`` is when the current one was made, in unix seconds.
    """

    current: KeyPair
    previous: KeyPair | None
    since: float

    @property
    def pairs(self) -> tuple[KeyPair, ...]:
        """Return the keys that are accepted, the current one first."""
        return (self.current,) if self.previous is None else (self.current, self.previous)


def check_keys_exist(folder: Path) -> None:
    """Raise ConfigError when `folder` lacks keys that others know already; make nothing.

    An authority's keys stand in the network file, so new ones would be of no use.
    """
    for path in (folder, folder / IDENTITY_FILE, folder / _file("link")):
        try:
            path.stat()
        except OSError as error:
            raise ConfigError(
                f"no keys of this authority: {path}: {error.strerror}. Say in keys where the "
                "folder is that warren network create made"
            ) from error


class KeyFiles:
    """Own the key files in a state folder."""

    def __init__(self, folder: DataFolder, keys: KeySource) -> None:
        self._folder = folder
        self._keys = keys

    def identity(self) -> Identity:
        """Return the peer's identity; the first call ever makes it.

        Raises ConfigError when the file is damaged (HS-4).
        """
        content = self._folder.read(IDENTITY_FILE)
        if content is None:
            content = self._create_identity()
        path = self._folder.path / IDENTITY_FILE
        _check_schema(content, path)
        try:
            stored = msgspec.json.decode(content, type=_IdentityFile)
            identity = Identity(_key_from(stored.seed))
        except (ValueError, RecursionError) as error:
            raise _damaged_identity(path) from error
        if str(identity.peer_id) != stored.peer_id:
            raise _damaged_identity(path)
        return identity

    def load(self, name: Rotating, now: float, *, is_known: bool = False) -> RotatingKeys:
        """Return the keys of this kind; make the first one when there is none.

        A damaged file, or one of a later version, is renamed and a new key made; but with
        `is_known`, because others know the key by a network file, it raises ConfigError and stays.
        """
        path = self._folder.path / _file(name)
        if is_known:
            content = self._folder.read(_file(name))
            held = None if content is None else _decode_known(content, path)
        else:
            held = self._folder.load(_file(name), lambda content: _decode(content, path))
        return held or self.save(name, RotatingKeys(self._keys.key_pair(), None, now))

    def rotate(self, name: Rotating, now: float) -> RotatingKeys:
        """Make a new key; the one before the last is forgotten.

        When this returns the new key is on the disk, so it may be published (HS-4).
        """
        before = self.load(name, now)
        return self.save(name, RotatingKeys(self._keys.key_pair(), before.current, now))

    def retire(self, name: Rotating, now: float) -> RotatingKeys:
        """Forget the previous key."""
        keys = self.load(name, now)
        return self.save(name, RotatingKeys(keys.current, None, keys.since))

    def save(self, name: Rotating, keys: RotatingKeys) -> RotatingKeys:
        """Replace the file of this kind; when this returns it is on the disk."""
        pairs = [[pair.private.hex(), pair.public.hex()] for pair in keys.pairs]
        self._folder.write(_file(name), msgspec.json.encode(_KeysFile(keys.since, pairs)))
        return keys

    def _create_identity(self) -> bytes:
        """Write a fresh identity, unless somebody was faster; return what stands there."""
        if self._folder.names(_file("link")):
            logger.warning(
                "the identity is gone and other keys are there: this is a new peer now; "
                "to be the one before, stop it and restore the file",
                file=str(self._folder.path / IDENTITY_FILE),
            )
        identity = Identity(os.urandom(KEY_LENGTH))
        stored = _IdentityFile(identity.seed.hex(), str(identity.peer_id))
        self._folder.create(IDENTITY_FILE, msgspec.json.encode(stored))
        content = self._folder.read(IDENTITY_FILE)
        assert content is not None
        return content

    def __repr__(self) -> str:
        return f"<KeyFiles in {self._folder.path}>"


class _Schema(msgspec.Struct, frozen=True):
    schema: int = SCHEMA


class _IdentityFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    seed: str
    peer_id: str
    schema: int = SCHEMA


class _KeysFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    since: float
    pairs: list[list[str]]
    schema: int = SCHEMA


def _file(name: Rotating) -> str:
    return f"{name}.keys"


def _check_schema(content: bytes, path: Path) -> None:
    """Raise NewerSchema for the file of a later version (REL-5); what is none passes."""
    with contextlib.suppress(ValueError, RecursionError):
        schema = msgspec.json.decode(content, type=_Schema).schema
        if schema > SCHEMA:
            raise NewerSchema(
                f"{path} is of schema {schema}, and this version of Warren reads {SCHEMA}: use "
                "a later version"
            )


def _decode(content: bytes, path: Path) -> RotatingKeys:
    _check_schema(content, path)
    stored = msgspec.json.decode(content, type=_KeysFile)
    pairs = []
    for private, public in stored.pairs:
        pair = KeyPair.from_private(_key_from(private))
        if pair.public.hex() != public:
            raise ValueError("a private key that does not fit its public one")
        pairs.append(pair)
    current, *previous = pairs
    return RotatingKeys(current, previous[0] if previous else None, stored.since)


def _decode_known(content: bytes, path: Path) -> RotatingKeys:
    try:
        return _decode(content, path)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is damaged, and the network file names the key in it. Restore it from a copy; "
            "without one this authority needs new keys and the network a new file"
        ) from error


def _key_from(text: str) -> bytes:
    key = bytes.fromhex(text)
    if len(key) != KEY_LENGTH:
        raise ValueError(f"a key of {len(key)} bytes, expected {KEY_LENGTH}")
    return key


def _damaged_identity(path: Path) -> ConfigError:
    return ConfigError(
        f"the identity in {path} is damaged. Restore it from a copy; or move the file away to "
        "become a new peer, one that nobody knows yet"
    )
