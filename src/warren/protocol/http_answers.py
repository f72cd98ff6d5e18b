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
    408: "Request Timeout",
    414: "URI Too Long",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
#: What a person can do, by the kind of error (RFC 9209 §2.3).
_ADVICE = {
    "connection_limit_reached": "Try again in a minute.",
    "connection_refused": "The server was reached through the network and has nothing at this "
    "port. Check the address.",
    "connection_terminated": "Try again: another path through the network will be used.",
    "connection_timeout": "The server may be down, or the network slow. Try again.",
    "destination_ip_prohibited": "Addresses inside of private networks are reached without a "
    "proxy; for others, no exit of the network lets this through.",
    "destination_ip_unroutable": "Try again: another exit may have a route.",
    "destination_unavailable": "<code>warren status</code> and the log of the proxy say more.",
    "dns_error": "Check the spelling of the name.",
    "http_request_denied": "Nothing was sent to anybody.",
    "http_request_error": "To use this proxy, set its address in your browser as HTTP or SOCKS "
    "proxy, or take <code>/proxy.pac</code> here as automatic configuration.",
    "http_response_timeout": "The server may be busy. Try again.",
    "proxy_internal_error": "If it happens again, look into the log of the proxy.",
}
#: The same where the status says more than the error.
_ADVICE_FOR_STATUS = {
    431: "Cookies are the usual cause: delete those of this site.",
}
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>body {{ font: 1em/1.5 sans-serif; max-width: 40em; margin: 3em auto }}</style>
<h1>{title}</h1>
<p>Warren, the proxy on this machine, could not do this: {details}.</p>
<p>{advice}</p>
<p><small>{error}</small></p>
</html>
"""
_METHODS = "CONNECT, DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"


class BadRequest(ProtocolError):
    """Tell that a request breaks the rules, and how its answer is to be.

    ``status`` is an HTTP status, ``is_page`` tells whether a person is to read why, and
    ``has_body`` that it was no HEAD.
    """

    def __init__(
        self, message: str, *, status: int = 400, is_page: bool = False, has_body: bool = True
    ) -> None:
        super().__init__(message)
        self.status = status
        self.is_page = is_page
        self.has_body = has_body


def malformed(error: ProtocolError) -> bytes:
    """Return the answer to a request that broke the rules; the connection is closed after it."""
    bad = error if isinstance(error, BadRequest) else BadRequest(str(error))
    failure = Failure(1, bad.status, "http_request_error", str(error))
    return answer(failure, is_page=bad.is_page, has_body=bad.has_body)


def answer(
    failure: Failure, *, is_page: bool = False, keeps_alive: bool = False, has_body: bool = True
) -> bytes:
    """Return a whole response for `failure`, its cause in Proxy-Status (RFC 9209)."""
    title = f"{failure.status} {_PHRASES[failure.status]}"
    text = f"{title}: {failure.details}.\n"
    kind = "text/plain; charset=us-ascii"
    fields = f"Proxy-Status: warren; error={failure.error}; details={_quoted(failure.details)}\r\n"
    if failure.status == 407:
        fields += 'Proxy-Authenticate: Basic realm="Warren", charset="UTF-8"\r\n'  # RFC 7617
    if is_page:
        advice = _ADVICE_FOR_STATUS.get(failure.status) or _ADVICE.get(failure.error, "Try again.")
        text = _PAGE.format(
            title=title,
            details=html.escape(failure.details),
            advice=advice,
            error=failure.error,
        )
        kind = "text/html; charset=utf-8"
        # The page stands at the target's address: nothing of the target may run in it.
        fields += "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n"
    return _response(title, kind, text, fields, keeps_alive=keeps_alive, has_body=has_body)


def options_answer() -> bytes:
    """Return the response that names the methods of requests to be forwarded."""
    return _response("200 OK", "text/plain; charset=us-ascii", "", f"Allow: {_METHODS}\r\n")


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
