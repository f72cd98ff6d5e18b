"""``warren browser`` with Firefox: a page comes through, and finds no way around the proxy.

The canary is first shown to hear a Firefox that only has its proxy set.
"""

import shutil
from pathlib import Path

import pytest

from tests.support.browsers import Canary, Page, profiles, running, warren_browser
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
  await fetch("SEEN?" + encodeURIComponent(JSON.stringify(found)));
})();
</script>"""
PROXY_ALONE = """user_pref("network.proxy.type", 1);
user_pref("network.proxy.socks", "127.0.0.1");
user_pref("network.proxy.socks_port", PORT);
user_pref("network.proxy.socks_remote_dns", true);
"""


@pytest.fixture
def kitchen(kitchen: Kitchen, tmp_path: Path) -> Kitchen:
    kitchen.environment |= {"MOZ_HEADLESS": "1", "TMPDIR": str(tmp_path)}
    return kitchen


def nosy_page(origin: Origin, path: str, bird: Canary) -> Page:
    return Page(origin, path, PAGE.replace("PORT", str(bird.address.port)))


def test_a_plain_firefox_goes_around_the_proxy(
    kitchen: Kitchen, origin: Origin, tcp: Canary
) -> None:
    page = nosy_page(origin, "/plain-firefox", tcp)
    profile = kitchen.table / "profile"
    profile.mkdir()
    (profile / "user.js").write_text(PROXY_ALONE.replace("PORT", kitchen.proxy_port))
    program = shutil.which("firefox-esr")
    assert program is not None

    with running(kitchen, [program, "--no-remote", "--profile", str(profile), page.url]):
        wait_until(lambda: bool(page.reports()), START_SECONDS, "the page's report")

    assert page.reports()[0] == {"webrtc": "function"}
    assert tcp.heard


def test_a_page_in_firefox_by_warren_browser_finds_no_way_around_the_proxy(
    kitchen: Kitchen, origin: Origin, lab: RunningLab, tcp: Canary
) -> None:
    page = nosy_page(origin, "/firefox", tcp)

    with running(kitchen, [*warren_browser(lab.proxy, "firefox-esr"), page.url]) as process:
        wait_until(lambda: bool(page.reports()), START_SECONDS, "the page's report")
        during = profiles(kitchen)

    assert page.reports()[0] == {"webrtc": "undefined"}
    assert tcp.heard == []
    assert (len(during), profiles(kitchen), process.returncode) == (1, [], 0)
