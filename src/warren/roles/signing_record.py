"""The record of what an authority has signed: never two things for one time (DIR-5).

Two different consensuses with one valid-after would split the network. So the digest is on the
disk before the signature leaves, and stays there: after a crash, a restart or a restored clock
the same question gets the same answer. A damaged record is worse than none; then the authority
does not start, and a person decides.

The file is text: a title, a line ``VALID-AFTER DIGEST`` for each, and a checksum of them.
"""

import hashlib

from warren.errors import ConfigError, DirectoryError, NewerSchema
from warren.storage import DataFolder

#: A week of hourly ones, and more; anything older than all of them is refused.
MOST_ENTRIES = 256
_FILE = "signed"
_SCHEMA = 1
_TITLE = f"warren signed consensuses {_SCHEMA}"


class SigningRecord:
    """Own the file of signed digests, by valid-after."""

    def __init__(self, folder: DataFolder) -> None:
        """Load the record; raise ConfigError when it is damaged."""
        self._folder = folder
        content = folder.read(_FILE)
        self._digests = {} if content is None else _parse(content, str(folder.path / _FILE))

    def commit(self, valid_after: int, digest: bytes) -> None:
        """Promise to sign only `digest` for `valid_after`; sign only after this has returned.

        Raises DirectoryError when another digest was promised, or may have been, and
        ConfigError when the promise cannot be written down.
        """
        held = self._digests.get(valid_after)
        if held == digest:
            return
        if held is not None:
            raise DirectoryError(
                f"a different consensus was already signed for {valid_after}: this one is refused"
            )
        if len(self._digests) >= MOST_ENTRIES and valid_after < min(self._digests):
            raise DirectoryError(f"{valid_after} is older than everything on record")
        newest = sorted({**self._digests, valid_after: digest}.items())[-MOST_ENTRIES:]
        self._folder.write(_FILE, _render(newest))
        self._digests = dict(newest)

    def __repr__(self) -> str:
        return f"<SigningRecord of {len(self._digests)}>"


def _render(entries: list[tuple[int, bytes]]) -> bytes:
    lines = [_TITLE, *(f"{valid_after} {digest.hex()}" for valid_after, digest in entries)]
    content = "\n".join(lines) + "\n"
    return f"{content}checksum {_checksum(content)}\n".encode("ascii")


def _parse(content: bytes, place: str) -> dict[int, bytes]:
    try:
        text = content.decode("ascii")
        body, _, checksum = text.rpartition("checksum ")
        title, *lines = body.splitlines()
        if _is_newer(title):
            raise NewerSchema(
                f"{place} was written by a later version of Warren: use that one, because without "
                "the record this authority could sign two different consensuses for one time"
            )
        if title != _TITLE or checksum != _checksum(body) + "\n":
            raise ValueError
        pairs = [line.split(" ") for line in lines]
        return {int(valid_after): bytes.fromhex(digest) for valid_after, digest in pairs}
    except ValueError:
        raise ConfigError(
            f"{place} is damaged, and without it this authority could sign two different "
            "consensuses for one time. Restore the newest copy; if there is none, stay off until "
            "the consensus after next is published, then remove the file and start again"
        ) from None


def _is_newer(title: str) -> bool:
    schema = title.removeprefix(_TITLE[:-1])
    return schema != title and schema.isdecimal() and len(schema) < 10 and int(schema) > _SCHEMA


def _checksum(content: str) -> str:
    return hashlib.sha256(content.encode("ascii")).hexdigest()
