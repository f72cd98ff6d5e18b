"""A real browser loads a page with twenty resources, each of which leaves a trace in the page.

The browser counts what it could use (pictures decoded, styles in force, scripts run), and the
origin what arrived. A browser asks for things of its own too, so only paths of the test count.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browsers import WINDOWLESS, trust
from tests.support.journeys import without_proxies
from tests.support.labs import RunningLab
from tests.support.web_origin import Origin

pytestmark = [
    pytest.mark.browser,
    pytest.mark.needs("chromium"),
    pytest.mark.timeout(180),
]

PICTURES, STYLES, SCRIPTS = range(10), range(10, 15), range(15, 20)
COUNT = """
addEventListener("load", () => {
  const width = (image) => image.naturalWidth === 3;
  const pictures = [...document.images].filter(width).length;
  const inForce = (part) => getComputedStyle(part).color === "rgb(1, 2, 3)";
  const styles = [...document.querySelectorAll("i")].filter(inForce).length;
  document.body.append(`used: ${pictures} pictures ${styles} styles ${ran.size} scripts`);
});
"""
PICTURE = b'<svg xmlns="http://www.w3.org/2000/svg" width="3" height="1"/>'
LOADED = "used: 10 pictures 5 styles 5 scripts"


def publish(origin: Origin, folder: str) -> set[str]:
    """Put the page and its resources below `folder`; return the paths of all of them."""
    page = f"<!doctype html><title>x</title><script>const ran = new Set();{COUNT}</script>"
    for number in PICTURES:
        origin.files[f"{folder}/{number}.svg"] = ("image/svg+xml", PICTURE)
        page += f'<img src="{number}.svg" alt="">'
    for number in STYLES:
        style = f".s{number} {{ color: rgb(1, 2, 3) }}"
        origin.files[f"{folder}/{number}.css"] = ("text/css", style.encode())
        page += f'<link rel="stylesheet" href="{number}.css"><i class="s{number}">i</i>'
    for number in SCRIPTS:
        script = f"ran.add({number});"
        origin.files[f"{folder}/{number}.js"] = ("text/javascript", script.encode())
        page += f'<script src="{number}.js"></script>'
    origin.files[f"{folder}/"] = ("text/html", page.encode())
    return {path for path in origin.files if path.startswith(f"{folder}/")}


@pytest.fixture(scope="module")
def home(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a home where the browser finds the origin's authority among those it trusts."""
    home = tmp_path_factory.mktemp("home")
    certificate = home / "ca.pem"
    origin.ca.cert_pem.write_to_path(certificate)
    trust(home, certificate)
    yield home
    shutil.rmtree(home, ignore_errors=True)


def browse(proxy: str, url: str, home: Path) -> str:
    """Return the page at `url` as the browser sees it when everything is loaded."""
    options = [
        *WINDOWLESS,
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        f"--user-data-dir={home / 'profile'}",
        f"--proxy-server={proxy}",
    ]
    environment = {**without_proxies(), "HOME": str(home)}
    done = subprocess.run(
        ["chromium", *options, "--dump-dom", url],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.needs("certutil")
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("way", ["socks5", "http"])
def test_chromium_loads_a_page_with_twenty_resources(
    lab: RunningLab, origin: Origin, home: Path, way: str, scheme: str
) -> None:
    folder = f"/over-{way}-{scheme}"
    wanted = publish(origin, folder)

    page = browse(f"{way}://{lab.proxy}", origin.url(f"{folder}/", scheme), home)

    assert LOADED in page
    assert len(wanted) == 21
    assert wanted <= set(origin.paths(scheme))


def test_chromium_refuses_a_certificate_that_it_does_not_know(
    lab: RunningLab, origin: Origin, tmp_path: Path
) -> None:
    publish(origin, "/refused")

    page = browse(f"socks5://{lab.proxy}", origin.url("/refused/", "https"), tmp_path)

    assert LOADED not in page
    assert "/refused/" not in origin.paths("https")
