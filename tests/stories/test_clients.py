"""Programs people have, pointed at the proxy: every way in, to http and https, and what fails.

The targets have a name that only exits can resolve, and a certificate that is really verified.
"""

import hashlib
import socket
import ssl
import subprocess
import urllib.request
from pathlib import Path

import pytest
from python_socks import ProxyError
from python_socks.async_.trio import Proxy as TrioProxy

from tests.support.journeys import request, through, without_proxies
from tests.support.labs import RunningLab
from tests.support.web_origin import NAME, PAGE, Origin
from warren.addresses import Address
from warren.lab.origin import content, digest

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

Done = subprocess.CompletedProcess[bytes]

WAYS = ["socks5h", "socks4a", "http"]
SCHEMES = ["http", "https"]
# curl(1), EXIT CODES
BROKEN, BAD_CERTIFICATE, PROXY_REFUSED = 56, 60, 97


@pytest.fixture(scope="module")
def certificate(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("certificate") / "ca.pem"
    origin.ca.cert_pem.write_to_path(path)
    return path


def curl(
    proxy: str, *arguments: str | Path, body: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run curl with `proxy`, an URL, and nothing from the environment or a file."""
    command = ["curl", "-q", "-sS", "--max-time", "60", "-x", proxy, *arguments]
    return subprocess.run(
        command, input=body, capture_output=True, check=False, env=without_proxies()
    )


# ---- curl


@pytest.mark.needs("curl")
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("way", WAYS)
def test_curl_gets_a_page_by_a_name_that_only_exits_know(
    lab: RunningLab, origin: Origin, certificate: Path, way: str, scheme: str
) -> None:
    origin.files[f"/{way}"] = ("text/html", PAGE)
    url = origin.url(f"/{way}", scheme)

    done = curl(f"{way}://{lab.proxy}", "--cacert", certificate, url)

    assert done.stdout == PAGE, done.stderr
    assert f"/{way}" in origin.paths(scheme)


@pytest.mark.needs("curl")
@pytest.mark.parametrize("way", WAYS)
def test_curl_verifies_certificates_through_the_proxy(
    lab: RunningLab, origin: Origin, way: str
) -> None:
    done = curl(f"{way}://{lab.proxy}", origin.url("/", "https"))

    assert done.returncode == BAD_CERTIFICATE
    assert done.stdout == b""


def test_this_machine_does_not_know_the_name() -> None:
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo(NAME, 80)


@pytest.mark.needs("curl")
@pytest.mark.parametrize("way", ["socks4", "socks5", "socks5h", "http"])
def test_curl_reaches_an_address_that_the_lab_allows(
    lab: RunningLab, origin: Origin, way: str
) -> None:
    done = curl(f"{way}://{lab.proxy}", f"http://{origin.http}/")

    assert done.stdout == PAGE, done.stderr


@pytest.mark.needs("curl")
@pytest.mark.parametrize("option", [(), ("--http1.0",), ("--proxytunnel",)])
@pytest.mark.parametrize("path", ["bytes", "chunked"])
def test_curl_downloads_over_plain_http(
    lab: RunningLab, origin: Origin, path: str, option: tuple[str, ...]
) -> None:
    url = origin.url(f"/{path}/3000000")

    done = curl(f"http://{lab.proxy}", *option, url)

    assert hashlib.sha256(done.stdout).hexdigest() == digest(3_000_000), done.stderr


@pytest.mark.needs("curl")
@pytest.mark.parametrize("expects", [False, True])
@pytest.mark.parametrize("in_chunks", [False, True])
@pytest.mark.parametrize("way", ["socks5h", "http"])
def test_curl_uploads_with_a_length_and_in_chunks(
    lab: RunningLab, origin: Origin, tmp_path: Path, way: str, in_chunks: bool, expects: bool
) -> None:
    body = b"".join(content(3_000_000))
    (tmp_path / "body").write_bytes(body)
    source = "-" if in_chunks else tmp_path / "body"  # curl does not know how long its input is
    header = "Expect: 100-continue" if expects else "Expect:"

    url = origin.url("/sink")
    done = curl(f"{way}://{lab.proxy}", "-T", source, "-H", header, url, body=body)

    assert done.stdout.decode() == digest(3_000_000), done.stderr


@pytest.mark.needs("curl")
def test_curl_asks_twice_over_one_connection(lab: RunningLab, origin: Origin) -> None:
    url = origin.url("/")

    done = curl(f"socks5h://{lab.proxy}", "-w", "[%{num_connects}]", url, url)

    assert done.stdout == PAGE + b"[1]" + PAGE + b"[0]", done.stderr


@pytest.mark.needs("curl")
@pytest.mark.parametrize("way", ["socks5h", "http"])
def test_a_login_is_taken_and_not_checked(lab: RunningLab, origin: Origin, way: str) -> None:
    done = curl(f"{way}://somebody:secret@{lab.proxy}", origin.url("/"))

    assert done.stdout == PAGE, done.stderr


# ---- curl, when something is wrong


@pytest.mark.needs("curl")
def test_curl_over_socks_is_told_that_a_name_does_not_exist(lab: RunningLab) -> None:
    done = curl(f"socks5h://{lab.proxy}", "http://nowhere.origin.example/")

    assert done.returncode == PROXY_REFUSED
    assert b"(4)" in done.stderr


@pytest.mark.needs("curl")
@pytest.mark.parametrize(
    ("host", "status", "error"),
    [
        ("nowhere.origin.example", 503, "dns_error"),
        ("inside.origin.example", 503, "destination_ip_prohibited"),
        ("10.0.0.1", 403, "destination_ip_prohibited"),
        ("printer.local", 403, "http_request_denied"),
        ("something.onion", 403, "http_request_denied"),
        ("CLOSED", 403, "connection_refused"),
    ],
)
def test_curl_over_http_is_told_why_in_the_proxy_status(
    lab: RunningLab, origin: Origin, host: str, status: int, error: str
) -> None:
    url = f"{NAME}:{origin.closed.port}" if host == "CLOSED" else host

    plain = curl(f"http://{lab.proxy}", "-i", f"http://{url}/")
    tunnel = curl(f"http://{lab.proxy}", "-i", "-p", f"http://{url}/")

    assert tunnel.returncode == BROKEN
    for done in (plain, tunnel):
        assert done.stdout.startswith(b"HTTP/1.1 %d " % status), done.stdout
        assert b"Proxy-Status: warren; error=%b;" % error.encode() in done.stdout


# ---- SOCKS codes


@pytest.mark.parametrize(
    ("target", "code"),
    [
        (Address("nowhere.origin.example", 80), 4),
        (Address("inside.origin.example", 80), 2),
        (Address("10.0.0.1", 80), 2),
        (Address("169.254.169.254", 80), 2),
        (Address("::1", 80), 2),
        (Address("printer.local", 80), 2),
        (Address("router", 80), 2),
        (Address(NAME, 25), 3),  # no exit's policy has port 25, so no path leads there
        (Address(NAME, 9), 2),  # the policies let it through, but not to such an address
    ],
)
def test_a_socks_client_is_told_why(lab: RunningLab, target: Address, code: int) -> None:
    with pytest.raises(ProxyError) as refusal:
        through(lab.proxy, target)

    assert refusal.value.error_code == code


@pytest.mark.parametrize("by_name", [False, True])
def test_a_closed_port_is_told_as_refused(lab: RunningLab, origin: Origin, by_name: bool) -> None:
    target = Address(NAME, origin.closed.port) if by_name else origin.closed

    with pytest.raises(ProxyError) as refusal:
        through(lab.proxy, target)

    assert refusal.value.error_code == 5


def test_socks4_has_one_code_for_every_refusal(lab: RunningLab) -> None:
    with pytest.raises(ProxyError) as refusal:
        through(lab.proxy, Address("nowhere.origin.example", 80), scheme="socks4")

    assert refusal.value.error_code == 0x5B


# ---- Python


@pytest.mark.parametrize("scheme", ["socks5", "socks4", "http"])
async def test_python_socks_over_trio(lab: RunningLab, origin: Origin, scheme: str) -> None:
    proxy = TrioProxy.from_url(f"{scheme}://{lab.proxy}", rdns=True)

    sock = await proxy.connect(NAME, origin.http.port, timeout=60)
    await sock.send(f"GET / HTTP/1.0\r\nHost: {NAME}\r\n\r\n".encode())
    answer = b""
    while chunk := await sock.recv(65536):
        answer += chunk
    sock.close()

    assert answer.endswith(PAGE)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_urllib_with_an_http_proxy(
    lab: RunningLab, origin: Origin, certificate: Path, scheme: str
) -> None:
    context = ssl.create_default_context(cafile=str(certificate))
    proxies = dict.fromkeys(SCHEMES, f"http://{lab.proxy}")
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler(proxies), urllib.request.HTTPSHandler(context=context)
    )

    with opener.open(origin.url("/", scheme), timeout=60) as answer:
        assert answer.read() == PAGE


@pytest.mark.parametrize("scheme", ["socks5", "http"])
def test_tls_through_a_tunnel_is_the_targets_own(
    lab: RunningLab, origin: Origin, certificate: Path, scheme: str
) -> None:
    context = ssl.create_default_context(cafile=str(certificate))

    tunnel = through(lab.proxy, Address(NAME, origin.https.port), scheme=scheme)  # type: ignore[arg-type]
    with context.wrap_socket(tunnel, server_hostname=NAME) as secure:
        request(secure, "/bytes/100000")
        answer = secure.makefile("rb").read()

    assert hashlib.sha256(answer[-100_000:]).hexdigest() == digest(100_000)


# ---- other programs


@pytest.mark.needs("nc")
@pytest.mark.parametrize("protocol", ["5", "connect"])
def test_nc_connects_by_name(lab: RunningLab, origin: Origin, protocol: str) -> None:
    target = [NAME, str(origin.http.port)]
    command = ["nc", "-X", protocol, "-x", lab.proxy, *target]
    asked = f"GET /bytes/1000 HTTP/1.0\r\nHost: {NAME}\r\n\r\n".encode()

    done = subprocess.run(command, input=asked, capture_output=True, timeout=60, check=False)

    assert hashlib.sha256(done.stdout[-1000:]).hexdigest() == digest(1000), done.stderr


@pytest.mark.needs("git")
@pytest.mark.parametrize("way", ["socks5h", "http"])
def test_git_clones_over_http(lab: RunningLab, origin: Origin, tmp_path: Path, way: str) -> None:
    text = f"through {way}\n"
    serve_repository(origin, tmp_path / "source", f"/{way}.git", text)

    url = origin.url(f"/{way}.git")
    git("-c", f"http.proxy={way}://{lab.proxy}", "clone", url, tmp_path / "copy")

    assert (tmp_path / "copy" / "letter").read_text() == text


def git(*arguments: str | Path) -> None:
    settings = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    environment = {**without_proxies(), **settings, "GIT_TERMINAL_PROMPT": "0"}
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@origin.example", *arguments]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def serve_repository(origin: Origin, folder: Path, path: str, text: str) -> None:
    """Let the origin serve a repository of one file as files that never change."""
    git("init", "--quiet", folder)
    (folder / "letter").write_text(text)
    git("-C", folder, "add", "letter")
    git("-C", folder, "commit", "--quiet", "-m", "a letter")
    git("-C", folder, "update-server-info")
    for file in (folder / ".git").rglob("*"):
        if file.is_file():
            name = f"{path}/{file.relative_to(folder / '.git')}"
            origin.files[name] = ("application/octet-stream", file.read_bytes())
