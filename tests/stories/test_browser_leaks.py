"""``warren browser`` lets a page find no way around the proxy; the recipes for browsers work.

Each canary is first shown to hear a Chromium that only has its proxy set, or none.
"""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browsers import (
    WINDOWLESS,
    Canary,
    Page,
    profiles,
    running,
    trust,
    warren_browser,
)
from tests.support.journeys import statistics, wait_until
from tests.support.labs import RunningLab
from tests.support.recipes import Kitchen, Recipe, recipes_of
from tests.support.web_origin import NAME, Origin
from warren.addresses import Address

pytestmark = [
    pytest.mark.browser,
    pytest.mark.needs("chromium", "certutil"),
    pytest.mark.timeout(180),
]

SEEN = "Only an exit knows where this is."
#: Chromium gives up on a STUN server that does not answer after about 6 seconds.
GATHERING_SECONDS = 30
#: Asks a STUN server for its address, and tells the origin which ones it has found.
LEAKY_PAGE = """<!doctype html><title>x</title><script>
const found = [];
const peer = new RTCPeerConnection({ iceServers: [{ urls: "stun:STUN" }] });
peer.onicecandidate = ({ candidate }) => {
  if (candidate) found.push(candidate.candidate);
  else fetch("SEEN?" + encodeURIComponent(JSON.stringify(found)));
};
peer.createDataChannel("x");
peer.createOffer().then((offer) => peer.setLocalDescription(offer));
</script>"""


@pytest.fixture
def chromium(kitchen: Kitchen) -> Iterator[Path]:
    """Return a Chromium for machines without a screen, which trusts the origin."""
    trust(kitchen.folder, kitchen.authority)
    with tempfile.TemporaryDirectory(prefix="wt") as scratch:  # short: it will hold a socket
        kitchen.environment["TMPDIR"] = scratch
        yield kitchen.put_before("chromium", *WINDOWLESS)


def browse(kitchen: Kitchen, lab: RunningLab, page: str, *options: str) -> str:
    """Return what ``warren browser`` shows of `page`; Chromium has these `options` besides."""
    chromium = kitchen.put_before("chromium", *WINDOWLESS, "--dump-dom", *options)
    done = subprocess.run(
        [*warren_browser(lab.proxy, str(chromium)), page],
        env=kitchen.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def leaky_page(origin: Origin, path: str, stun: Address) -> Page:
    return Page(origin, path, LEAKY_PAGE.replace("STUN", str(stun)))


# ---- the recipes


@pytest.mark.parametrize("recipe", recipes_of("Chromium", "warren browser"), ids=str)
def test_a_browser_shows_the_page(kitchen: Kitchen, chromium: Path, recipe: Recipe) -> None:
    kitchen.put_before("chromium", *WINDOWLESS, "--dump-dom")

    done = kitchen.try_out(recipe)

    assert SEEN in done.stdout, done.stderr
    assert profiles(kitchen) == []


# ---- what Chromium does when only its proxy is set: the canaries can hear


def test_webrtc_of_a_plain_chromium_goes_around_the_proxy(
    kitchen: Kitchen, chromium: Path, origin: Origin, lab: RunningLab, udp: Canary
) -> None:
    page = leaky_page(origin, "/leaky", udp.address)
    proxy = f"--proxy-server=socks5://{lab.proxy}"
    command = [str(chromium), "--user-data-dir=profile", proxy, page.url]

    with running(kitchen, command):
        wait_until(lambda: bool(udp.heard), GATHERING_SECONDS, "a STUN request")

    assert udp.heard[0][:2] == b"\x00\x01"  # RFC 8489 §5: a Binding request


def test_a_plain_chromium_goes_around_the_proxy_to_this_machine(
    kitchen: Kitchen, chromium: Path, lab: RunningLab, tcp: Canary
) -> None:
    proxy = f"--proxy-server=socks5://{lab.proxy}"
    command = [str(chromium), "--dump-dom", "--user-data-dir=profile", proxy]

    subprocess.run(
        [*command, f"http://localhost:{tcp.address.port}/"],
        cwd=kitchen.table,
        env=kitchen.environment,
        capture_output=True,
        timeout=120,
        check=False,
    )

    assert tcp.heard


def test_a_chromium_without_proxy_speaks_quic(
    kitchen: Kitchen, chromium: Path, origin: Origin, udp: Canary
) -> None:
    here = f"{NAME}:{origin.https.port}"
    forced = [
        f"--origin-to-force-quic-on={here}",
        f"--host-resolver-rules=MAP {here} {udp.address}",
    ]
    command = [str(chromium), "--user-data-dir=profile", *forced, f"https://{here}/"]

    with running(kitchen, command):
        wait_until(lambda: bool(udp.heard), GATHERING_SECONDS, "a QUIC packet")

    assert udp.heard[0][0] & 0xC0 == 0xC0  # RFC 9000 §17.2: a long header
    assert len(udp.heard[0]) >= 1200


# ---- what warren browser lets through


def test_a_page_in_warren_browser_finds_no_address_and_sends_no_datagram(
    kitchen: Kitchen, chromium: Path, origin: Origin, lab: RunningLab, udp: Canary
) -> None:
    page = leaky_page(origin, "/tight", udp.address)

    with running(kitchen, [*warren_browser(lab.proxy, str(chromium)), page.url]) as process:
        wait_until(lambda: bool(page.reports()), GATHERING_SECONDS, "the page's report")
        during = profiles(kitchen)

    assert page.reports() == [[]]
    assert udp.heard == []
    assert (len(during), profiles(kitchen), process.returncode) == (1, [], 0)


def test_warren_browser_speaks_no_quic_even_where_it_would_be_forced_to(
    kitchen: Kitchen, chromium: Path, origin: Origin, lab: RunningLab, udp: Canary
) -> None:
    here = f"{NAME}:{origin.https.port}"

    page = browse(kitchen, lab, f"https://{here}/", f"--origin-to-force-quic-on={here}")

    assert SEEN in page
    assert udp.heard == []


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_warren_browser_does_not_reach_this_machine(
    kitchen: Kitchen, chromium: Path, lab: RunningLab, tcp: Canary, host: str
) -> None:
    refused = statistics(lab, "proxy")["proxy"]["refused"]

    page = browse(kitchen, lab, f"http://{host}:{tcp.address.port}/")

    assert statistics(lab, "proxy")["proxy"]["refused"] > refused
    assert (tcp.heard, page) == ([], "")
