"""The target of the stories: a web server by a name that only exits know, and a raw TCP one.

    GET  /bytes/N      the N bytes of ``warren.lab.origin.content``
    GET  /chunked/N    the same in chunks
    GET  /unending     bytes without a length, until the client has had enough
    GET  anything else what ``files`` holds under that path
    PUT  /sink         answers with the SHA-256 of what it got
    PUT  /stalled      the same, but reads nothing of the body until ``gate`` is open

The raw server reads one line and does what it says: ``drain N NAME`` reads up to the end and
then sends N bytes, ``send N NAME`` sends N bytes, ends, and then reads up to the end. What it
read stands in ``drained[NAME]``, in hex. It and its client half-close in either order (SID-5).

It runs in threads of the test, so a test sees at once what arrived. Each server keeps the
connections it has accepted in ``accepted``.
"""

import contextlib
import hashlib
import http.server
import socket
import socketserver
import ssl
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase

import trustme

from warren.addresses import Address
from warren.lab.origin import content

#: Resolved by the exits of a network that was told so, and by nobody else.
NAME = "www.origin.example"
PAGE = b"<!doctype html>\n<title>Far away</title>\n<p>Only an exit knows where this is.</p>\n"
#: A stalled target shall not hide megabytes of an upload in its own socket.
STALLED_BUFFER_BYTES = 256 * 1024
BLOCK_BYTES = 256 * 1024
MOST_SECONDS = 120


@dataclass(frozen=True)
class Seen:
    """Hold one request as it arrived."""

    scheme: str
    method: str
    path: str
    host: str


class Origin:
    """Own the servers, what they have seen, and what they serve; see ``running_origin``."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        self.ca = trustme.CA()
        self.files: dict[str, tuple[str, bytes]] = {"/": ("text/html", PAGE)}
        self.requests: list[Seen] = []
        self.drained: dict[str, str] = {}
        self.gate = threading.Event()
        self._web = _Server(_Web, self)
        self._secure = _Server(_Web, self, self._context())
        self._raw = _Server(_Raw, self)
        # Bound, so that nobody else listens there, but not listening: whoever connects is refused.
        self._closed = socket.socket()
        self._closed.bind((host, 0))

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(NAME).configure_cert(context)
        return context

    @property
    def http(self) -> Address:
        """Return where plain HTTP is served."""
        return self._web.address

    @property
    def https(self) -> Address:
        """Return where HTTPS is served, with a certificate of ``ca`` for ``NAME``."""
        return self._secure.address

    @property
    def raw(self) -> Address:
        """Return where the raw server is."""
        return self._raw.address

    @property
    def closed(self) -> Address:
        """Return an address that refuses every connection."""
        return Address(self.host, self._closed.getsockname()[1])

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Return all of them, for ``--allow-target``."""
        return self.http, self.https, self.raw, self.closed

    @property
    def accepted(self) -> int:
        """Return how many connections arrived anywhere."""
        return sum(server.accepted for server in (self._web, self._secure, self._raw))

    def url(self, path: str = "/", scheme: str = "http") -> str:
        """Return the URL of `path`, by the name that only exits know."""
        port = self.http.port if scheme == "http" else self.https.port
        return f"{scheme}://{NAME}:{port}{path}"

    def paths(self, scheme: str | None = None) -> list[str]:
        """Return the paths that were asked for, in their order."""
        return [seen.path for seen in self.requests if scheme in (None, seen.scheme)]

    def close(self) -> None:
        """End all servers; what is still connected is let go."""
        self.gate.set()
        for server in (self._web, self._secure, self._raw):
            server.shutdown()
            server.server_close()
        self._closed.close()


@contextlib.contextmanager
def running_origin(host: str = "127.0.0.1") -> Iterator[Origin]:
    """Run an origin at `host` while inside."""
    origin = Origin(host)
    try:
        yield origin
    finally:
        origin.close()


class _Server(socketserver.ThreadingTCPServer):
    """Serve one port of an origin, a thread for each connection."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 1024

    def __init__(
        self,
        handler: type[socketserver.BaseRequestHandler],
        origin: Origin,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__((origin.host, 0), handler)
        self.address = Address(origin.host, self.socket.getsockname()[1])
        self.origin = origin
        self.accepted = 0
        self.scheme = "https" if tls else "http"
        # Accepted sockets inherit it.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STALLED_BUFFER_BYTES)
        if tls is not None:
            # The handshake is then done by the thread of the connection.
            self.socket = tls.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True).start()

    def process_request(self, request: object, client_address: object) -> None:
        self.accepted += 1
        super().process_request(request, client_address)  # type: ignore[arg-type]  # only passed on

    def handle_error(self, request: object, client_address: object) -> None:
        """Let a client go that broke off, which many tests want; anything else is a mistake."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # as above


class _Web(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = MOST_SECONDS
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def _note(self) -> None:
        host = self.headers.get("Host", "")
        seen = Seen(self.server.scheme, self.command, self.path, host)
        self.server.origin.requests.append(seen)

    def do_GET(self) -> None:
        self._note()
        kind, _, number = self.path.removeprefix("/").partition("/")
        if kind == "bytes":
            self._head("application/octet-stream", "Content-Length", number)
            for block in content(int(number)):
                self.wfile.write(block)
        elif kind == "chunked":
            self._head("application/octet-stream", "Transfer-Encoding", "chunked")
            for block in content(int(number)):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block))
            self.wfile.write(b"0\r\n\r\n")
        elif kind == "unending":
            self._head("application/octet-stream", "Connection", "close")
            while True:
                self.wfile.write(bytes(BLOCK_BYTES))
        else:
            self._send_file()

    def _send_file(self) -> None:
        path = self.path.partition("?")[0]
        kind, body = self.server.origin.files.get(path, ("text/plain", b""))
        self.send_response(200 if path in self.server.origin.files else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _head(self, kind: str, *framing: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header(framing[0], framing[1])
        self.end_headers()

    def do_PUT(self) -> None:
        self._note()
        if self.path == "/stalled":
            self.server.origin.gate.wait(MOST_SECONDS)
        total = hashlib.sha256()
        for block in self._body():
            total.update(block)
        answer = total.hexdigest().encode()
        self._head("text/plain", "Content-Length", str(len(answer)))
        self.wfile.write(answer)

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding") != "chunked":
            yield from _read(self.rfile, int(self.headers["Content-Length"]))
            return
        while size := int(self.rfile.readline(), 16):
            yield from _read(self.rfile, size)
            self.rfile.readline()
        self.rfile.readline()


def _read(file: BufferedIOBase, size: int) -> Iterator[bytes]:
    while size:
        block = file.read1(min(size, BLOCK_BYTES))
        if not block:
            raise ConnectionError("the body ended too early")
        size -= len(block)
        yield block


class _Raw(socketserver.StreamRequestHandler):
    timeout = MOST_SECONDS
    server: _Server

    def handle(self) -> None:
        order, number, name = self.rfile.readline().decode().split()
        if order == "drain":
            self._drain(name)
        for block in content(int(number)):
            self.wfile.write(block)
        self.connection.shutdown(socket.SHUT_WR)
        if order == "send":
            self._drain(name)

    def _drain(self, name: str) -> None:
        total = hashlib.sha256()
        while block := self.rfile.read1(BLOCK_BYTES):
            total.update(block)
        self.server.origin.drained[name] = total.hexdigest()
