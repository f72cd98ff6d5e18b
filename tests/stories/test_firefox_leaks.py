"""``warren browser`` with Firefox: a page comes through, and finds no way around the proxy.

The canary is first shown to hear a Firefox that only has its proxy set.
"""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from tests.support.browsers import Canary, canary
from tests.support.journeys import wait_until
from tests.support.labs import RunningLab
from tests.support.recipes import Kitchen
from tests.support.web_origin import Origin

pytestmark = [pytest.mark.browser, pytest.mark.needs("firefox-esr"), pytest.mark.timeout(180)]

START_SECONDS = 60
#: Tries what goes around a proxy, and tells the origin when it has.
PAGE = """<!doctype html><title>x</title><script>
(async () => {
  for (const host of ["localhost", "127.0.0.1"])
    await fetch(`http://${host}:PORT/`, { mode: "no-cors" }).catch(() => {});
  const found = { webrtc: typeof RTCPeerConnection };
  await fetch("/seen?" + encodeURIComponent(JSON.stringify(found)));
})();
</script>"""
PROXY_ALONE = """user_pref("network.proxy.type", 1);
user_pref("network.proxy.socks", "127.0.0.1");
user_pref("network.proxy.socks_port", PORT);
user_pref("network.proxy.socks_remote_dns", true);
"""


@pytest.fixture
def tcp() -> Iterator[Canary]:
    with canary(socket.SOCK_STREAM) as bird:
        yield bird


class Visit:
    """Own one page of the origin, which a browser is sent to."""

    def __init__(self, kitchen: Kitchen, bird: Canary, path: str) -> None:
        self._kitchen = kitchen
        self._origin: Origin = kitchen.origin
        self.url = self._origin.url(path)
        page = PAGE.replace("PORT", str(bird.address.port)).replace("/seen", f"/seen{path}")
        self._report = f"/seen{path}?"
        self._origin.files[path] = ("text/html", page.encode())

    def reports(self) -> list[Any]:
        """Return what the page has told the origin."""
        told = [path for path in self._origin.paths() if path.startswith(self._report)]
        return [json.loads(unquote(path.partition("?")[2])) for path in told]

    @contextlib.contextmanager
    def by(self, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
        """Let `command` show the page; be inside when the page has told what it found."""
        environment = {**self._kitchen.environment, "MOZ_HEADLESS": "1"}
        process = subprocess.Popen([*command, self.url], env=environment)
        try:
            wait_until(lambda: bool(self.reports()), START_SECONDS, "the page's report")
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            finally:
                process.kill()


def test_a_plain_firefox_goes_around_the_proxy(
    kitchen: Kitchen, lab: RunningLab, tcp: Canary
) -> None:
    visit = Visit(kitchen, tcp, "/plain-firefox")
    profile = kitchen.table / "profile"
    profile.mkdir()
    (profile / "user.js").write_text(PROXY_ALONE.replace("PORT", kitchen.proxy_port))
    program = shutil.which("firefox-esr")
    assert program is not None

    with visit.by([program, "--no-remote", "--profile", str(profile)]):
        found = visit.reports()[0]

    assert found == {"webrtc": "function"}
    assert tcp.heard


def test_a_page_in_firefox_by_warren_browser_finds_no_way_around_the_proxy(
    kitchen: Kitchen, lab: RunningLab, tcp: Canary, tmp_path: Path
) -> None:
    visit = Visit(kitchen, tcp, "/firefox")
    kitchen.environment["TMPDIR"] = str(tmp_path)
    command = [sys.executable, "-m", "warren", "browser", "--proxy", lab.proxy]

    with visit.by([*command, "--browser", "firefox-esr"]) as process:
        found = visit.reports()[0]
        during = list(tmp_path.glob("warren-browser-*"))

    assert found == {"webrtc": "undefined"}
    assert tcp.heard == []
    assert (len(during), list(tmp_path.glob("warren-browser-*"))) == (1, [])
    assert process.returncode == 0
