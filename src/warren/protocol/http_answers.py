"""What the proxy itself answers over HTTP: refusals with their cause, and the browser's set-up.

A refusal carries its exact cause in Proxy-Status (RFC 9209), and as a page or a line of text what
a person needs. No answer names a peer's words (FE-7) or asks for a password, but where one was
configured. Every one is framed by its length, so a client may go on using the connection where it
is kept open.
"""

import html

from warren.addresses import Address
from warren.errors import ProtocolError
from warren.protocol.front import Failure

_PHRASES = {
    400: "Bad Request",
    403: "Forbidden",
    407: "Proxy Authentication Required",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


def malformed(error: ProtocolError) -> bytes:
    """Return the answer to a request that broke the rules; the connection is closed after it."""
    return answer(Failure(1, 400, "http_request_error", str(error)))


def answer(
    failure: Failure, *, is_page: bool = False, keeps_alive: bool = False, has_body: bool = True
) -> bytes:
    """Return a whole response for `failure`, its cause in Proxy-Status (RFC 9209)."""
    title = f"{failure.status} {_PHRASES[failure.status]}"
    text = f"{title}: {failure.details}.\n"
    if is_page:
        text = (
            f"<!doctype html><title>{title}</title><h1>{title}</h1>"
            f"<p>Warren could not do this: {html.escape(failure.details)}.</p>\n"
        )
    fields = f"Proxy-Status: warren; error={failure.error}; details={_quoted(failure.details)}\r\n"
    if failure.status == 407:
        fields += 'Proxy-Authenticate: Basic realm="Warren", charset="UTF-8"\r\n'  # RFC 7617
    kind = "text/html" if is_page else "text/plain"
    return _response(title, kind, text, fields, keeps_alive=keeps_alive, has_body=has_body)


def pac_answer(proxy: Address) -> bytes:
    """Return the response that configures a browser to use the proxy at `proxy`.

    There is no DIRECT, so a proxy that is down never means a leak, and no SOCKS, because some
    browsers resolve names themselves for it.
    """
    script = f'function FindProxyForURL(url, host) {{ return "PROXY {proxy}"; }}\n'
    fields = "Cross-Origin-Resource-Policy: same-origin\r\n"
    return _response("200 OK", "application/x-ns-proxy-autoconfig", script, fields)


def _response(
    title: str,
    kind: str,
    text: str,
    fields: str,
    *,
    keeps_alive: bool = False,
    has_body: bool = True,
) -> bytes:
    body = text.encode("ascii", "replace")
    head = (
        f"HTTP/1.1 {title}\r\n{fields}"
        f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
        f"Connection: {'keep-alive' if keeps_alive else 'close'}\r\n\r\n"
    )
    return head.encode("ascii") + (body if has_body else b"")


def _quoted(text: str) -> str:
    """Return `text` as a structured-field string (RFC 8941 §3.3.3)."""
    printable = "".join(letter if " " <= letter <= "~" else "?" for letter in text)
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'
