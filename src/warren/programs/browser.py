"""A browser in a profile that lives as long as it does, with the proxy as its only way out.

The profile is new, so nothing that a browser remembers from before can tell who is there, and is
removed at the end. What makes the proxy the only way out is told in ``chromium`` and ``firefox``;
this is about finding a browser, starting it, and leaving nothing behind.

It is no Tor Browser: pages still see fonts, window, graphics card and time zone.
"""

import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from warren.addresses import Address
from warren.errors import ConfigError
from warren.programs import chromium, firefox

#: Names on the PATH, in the order in which they are tried.
NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome-stable",
    "google-chrome",
    "brave-browser",
    "microsoft-edge",
    "firefox",
    "firefox-esr",
)
_CHROMIUM_KIN = ("Chromium", "Google Chrome", "Brave", "Microsoft Edge")
PROXY_SECONDS = 5.0
VERSION_SECONDS = 20.0
#: From SIGTERM to SIGKILL.
GRACE_SECONDS = 8.0


@dataclass(frozen=True)
class Browser:
    """Hold an installed browser: its program, and whose kin it is."""

    path: str
    is_firefox: bool

    def prepare(self, profile: Path, proxy: Address, page: str) -> list[str]:
        """Write its preferences into the empty folder `profile`; return the command to start."""
        if self.is_firefox:
            firefox.write_profile(profile, proxy)
            return [self.path, *firefox.arguments(profile, page)]
        chromium.write_profile(profile)
        return [self.path, *chromium.arguments(profile, proxy, page)]


def browse(proxy: Address, page: str, wanted: str | None = None) -> int:
    """Run a browser that shows `page` until it is closed; return its exit code.

    `wanted` is the program's name or path. SIGINT and SIGTERM close it. Raises ConfigError when
    there is no such browser, or no proxy of ours at `proxy`.
    """
    browser = find_browser(wanted)
    check_proxy(proxy)
    return _run(lambda profile: browser.prepare(profile, proxy, page))


def find_browser(wanted: str | None = None) -> Browser:
    """Return the browser `wanted`, or the first one installed; ask it what it is.

    Raises ConfigError when there is none, or it is of a kind we cannot wire.
    """
    names = NAMES if wanted is None else (wanted,)
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None and wanted is not None:
        raise ConfigError(f"--browser {wanted!r}: no such program, expected a name or a path")
    if path is None:
        raise ConfigError(
            f"no browser found: looked on the PATH for {', '.join(NAMES)}. Install one (on Debian: "
            "apt install chromium), or name it with --browser PATH"
        )
    _check_is_free(path)
    version = _version_of(path)
    is_firefox = "Firefox" in version
    if not is_firefox and not any(kin in version for kin in _CHROMIUM_KIN):
        raise ConfigError(
            f"{path} calls itself {version[:80]!r}, expected Firefox, Chromium, Chrome, Brave or "
            "Edge: of others it is not known how to keep them from leaking"
        )
    return Browser(path, is_firefox)


def _check_is_free(path: str) -> None:
    """Raise ConfigError for a browser that cannot read our profile: a snap sees another /tmp."""
    with contextlib.suppress(OSError):
        is_snap = Path(path).resolve().name == "snap"  # /snap/bin has links to it
        if not is_snap:
            with Path(path).open("rb") as program:  # or a script that starts one of these
                is_snap = b"/snap/bin/" in program.read(4096)
        if is_snap and not Path(tempfile.gettempdir()).is_relative_to(Path.home() / "snap"):
            raise ConfigError(
                f"{path} is a snap, which cannot read a profile in {tempfile.gettempdir()}. Let "
                "TMPDIR be a folder of its own, such as ~/snap/firefox/common for Firefox, or "
                "name another browser with --browser PATH"
            )


def _version_of(path: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603  the program that the user named or installed
            [path, "--version"], capture_output=True, timeout=VERSION_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{path} does not tell its version: {error}") from error
    return done.stdout.decode("utf-8", "replace").strip()


def check_proxy(proxy: Address) -> None:
    """Raise ConfigError unless a proxy of ours answers at `proxy`; wait 5 s at most.

    A browser would start all the same, and show only that nothing can be reached.
    """
    connection = http.client.HTTPConnection(proxy.host, proxy.port, timeout=PROXY_SECONDS)
    try:
        with contextlib.closing(connection):
            connection.request("GET", "/proxy.pac", headers={"Host": "localhost"})
            script = connection.getresponse().read(4096)
    except http.client.HTTPException:
        script = b""
    except OSError as error:
        raise ConfigError(
            f"no proxy at {proxy}: {error.strerror or error}. Start one with warren proxy, or say "
            "with --proxy HOST:PORT where it is"
        ) from error
    if b"FindProxyForURL" not in script:
        raise ConfigError(
            f"what listens at {proxy} is no proxy of Warren. Say with --proxy HOST:PORT where it is"
        )


@contextlib.contextmanager
def _passing_profile() -> Iterator[Path]:
    """Make a folder that only this user can read, and remove it with all that is in it."""
    try:
        profile = Path(tempfile.mkdtemp(prefix="warren-browser-"))
    except OSError as error:
        raise ConfigError(
            f"cannot make a folder for the browser's profile: {error.strerror}. Let TMPDIR be one "
            "that can be written"
        ) from error
    try:
        yield profile
    finally:
        # A helper of the browser that is about to end may still write a file.
        for attempt in range(10):
            shutil.rmtree(profile, ignore_errors=True)
            if not profile.exists():
                break
            time.sleep(0.1 * attempt)


def _run(prepare: Callable[[Path], list[str]]) -> int:
    """Run what `prepare` makes of a new profile until it ends, or until we are told to end it.

    It is in a session of its own. The first signal asks it to end; a second one, or an alarm after
    a while, makes it. They are waited for before there is a profile, so that none is left behind.
    """
    caught: list[int] = []
    running: list[subprocess.Popen[bytes]] = []

    def end(number: int, _frame: FrameType | None) -> None:
        caught.append(number)
        for process in running:
            process.send_signal(signal.SIGTERM if len(caught) == 1 else signal.SIGKILL)
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)

    with _handling_signals(end), _passing_profile() as profile:
        process = subprocess.Popen(  # noqa: S603  the program that the user named or installed
            prepare(profile), start_new_session=True, stdin=subprocess.DEVNULL
        )
        running.append(process)
        try:
            if caught:  # before there was anything to end
                process.terminate()
            code = process.wait()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            # Whatever it started would go on with a profile that is not there any more.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return 0 if caught else code


@contextlib.contextmanager
def _handling_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let `handler` have all signals that would end this process or that it sets an alarm for."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
