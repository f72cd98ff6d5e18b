r"""A chunked body (RFC 9112 §7.1): what is in it, and where it ends.

h11 waits for a CR LF where none can come any more, takes bare line feeds where the trailers end
(FE-4), and spends ten times as long on chunks of one byte, of which a site may send millions. Here
every byte is looked at once, and the first that cannot be right is refused, however the body was
cut on its way::

    5;extension\r\n    a size in hexadecimal digits, and what nobody needs
    hello\r\n          so many bytes
    0\r\n              the last chunk has none
    Name: value\r\n    trailers, if any
    \r\n
"""

import re
from enum import Enum

from warren.errors import expect, refuse
from warren.protocol.http_head import HEAD_LIMIT, read_field

_TEXT = rb"[\t\x20-\x7e\x80-\xff]*"
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;%s)?\r?\n?\Z" % _TEXT)
_WHOLE_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\x20-\x7e]{0,64})?\r\n")
_END = re.compile(rb"\r?\n?\Z")
_TRAILER = re.compile(rb"%s\r?\n?\Z" % _TEXT)
_BARE = "a line of the chunked body ends in a bare line feed; it must end in CR LF"
_LONG = f"a line of the chunked body, or its trailers, are longer than {HEAD_LIMIT} bytes"


class _Expected(Enum):
    """Name what the next line is: how it may begin, and what is said if it does not."""

    SIZE = _SIZE, "a chunk of the body does not begin with a line of its size in hexadecimal digits"
    END = _END, "a chunk of the body does not end in CR LF where its size says"
    TRAILER = _TRAILER, "a trailer behind the body has control characters"


class ChunkedBody:
    """Own the place in a chunked body up to which it was read; ``is_whole`` at its end."""

    def __init__(self) -> None:
        self.is_whole = False
        self._expected = _Expected.SIZE
        self._line = bytearray()
        self._chunk_left = 0
        self._trailers = 0  # bytes of them so far

    def take(self, data: bytes) -> bytes:
        """Take the next bytes, return those of them that are content.

        What is behind the end of the body is not looked at. Raises ProtocolError at what is no
        chunk, with words of ours.
        """
        at = 0
        content: list[bytes] = []
        while at < len(data) and not self.is_whole:
            if self._chunk_left:
                piece = data[at : at + self._chunk_left]
                content.append(piece)
                self._chunk_left -= len(piece)
                at += len(piece)
                continue
            if self._expected is _Expected.SIZE and not self._line:
                at = _take_whole_chunks(data, at, content)
                if at == len(data):
                    break
            end = data.find(b"\n", at) + 1 or len(data)
            self._line += data[at:end]
            at = end
            self._check_line()
            if self._line.endswith(b"\n"):
                self._take_line(bytes(self._line[:-2]))
                self._line.clear()
        return b"".join(content)

    def _check_line(self) -> None:
        """Refuse a line, whole or not, that can no longer become a right one."""
        begins, words = self._expected.value
        line = self._line
        expect(line[-1:] != b"\n" or line[-2:-1] == b"\r", _BARE)
        expect(bool(begins.match(line)), words)
        expect(len(line) <= HEAD_LIMIT - self._trailers, _LONG)

    def _take_line(self, line: bytes) -> None:
        if self._expected is _Expected.SIZE:
            size = _SIZE.match(line)
            if size is None:
                refuse(_Expected.SIZE.value[1])
            self._chunk_left = int(size[1], 16)
            self._expected = _Expected.END if self._chunk_left else _Expected.TRAILER
        elif self._expected is _Expected.END:
            self._expected = _Expected.SIZE
        elif line:
            read_field(line)
            self._trailers += len(line) + 2
        else:
            self.is_whole = True


def _take_whole_chunks(data: bytes, at: int, content: list[bytes]) -> int:
    """Put the chunks that are there as a whole, thousands it may be, into `content`.

    Returns where they end.
    """
    while size := _WHOLE_SIZE.match(data, at):
        start = size.end()
        end = start + int(size[1], 16)
        if end == start or data[end : end + 2] != b"\r\n":
            break
        content.append(data[start:end])
        at = end + 2
    return at
