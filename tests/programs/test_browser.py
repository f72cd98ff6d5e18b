"""Finding, starting and ending a browser; what it then lets through is told in the stories."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.journeys import wait_until
from warren.addresses import Address
from warren.errors import ConfigError
from warren.programs import browser, chromium, firefox
from warren.programs.browser import Browser, browse, check_proxy, find_browser
from warren.protocol.http_answers import pac_answer

PROXY = Address("127.0.0.1", 1080)


class Listener:
    """Own a port that says the same to everybody who says anything."""

    def __init__(self, answer: bytes) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = Address(*self._socket.getsockname())
        self._answer = answer
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                visitor, _ = self._socket.accept()
            except OSError:
                return
            with visitor:
                visitor.recv(65536)
                visitor.sendall(self._answer)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def proxy() -> Iterator[Listener]:
    listener = Listener(pac_answer(PROXY))
    yield listener
    listener.close()


def program(folder: Path, name: str, version: str, body: str = "exit 0") -> Path:
    """Write a program that tells its `version` as browsers do, and else runs `body`."""
    path = folder / name
    path.write_text(
        f'#!/bin/sh\nif [ "$1" = --version ]; then echo "{version}"; exit; fi\n{body}\n'
    )
    path.chmod(0o700)
    return path


# ---- finding one


def test_the_first_one_on_the_path_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "firefox", "Mozilla Firefox 153.8.0esr")
    chrome = program(tmp_path, "google-chrome", "Google Chrome 156.0.8078.108")
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_browser() == Browser(str(chrome), is_firefox=False)
    assert find_browser("firefox") == Browser(str(tmp_path / "firefox"), is_firefox=True)


def test_without_a_browser_it_says_what_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(
        ConfigError, match=r"no browser found: looked .* for chromium, .*firefox-esr"
    ):
        find_browser()
    with pytest.raises(ConfigError, match="--browser 'nowhere': no such program"):
        find_browser("nowhere")


@pytest.mark.parametrize("version", ["Lynx Version 2.9", "Opera 12", ""])
def test_a_browser_of_another_kind_is_refused(tmp_path: Path, version: str) -> None:
    other = program(tmp_path, "other", version)

    with pytest.raises(ConfigError, match=f"calls itself '{version}', expected Firefox"):
        find_browser(str(other))


def test_a_program_that_does_not_answer_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browser, "VERSION_SECONDS", 0.1)
    path = tmp_path / "mute"
    path.write_text("#!/bin/sh\nexec sleep 60\n")
    path.chmod(0o700)

    with pytest.raises(ConfigError, match="does not tell its version"):
        find_browser(str(path))


@pytest.mark.parametrize("is_link", [False, True])
def test_a_snap_must_be_able_to_read_its_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_link: bool
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    snap = program(tmp_path, "snap", "Mozilla Firefox 153", "exec /snap/bin/firefox")
    link = tmp_path / "firefox"
    link.symlink_to(snap)

    with pytest.raises(ConfigError, match="is a snap, which cannot read a profile in /"):
        find_browser(str(link if is_link else snap))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "snap" / "firefox" / "common"))
    assert find_browser(str(link)).is_firefox


# ---- the proxy must be there


def test_a_proxy_of_ours_is_known_by_its_answer(proxy: Listener) -> None:
    check_proxy(proxy.address)


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\n\r\nhello"])
def test_something_else_that_listens_is_refused(answer: bytes) -> None:
    other = Listener(answer)

    with pytest.raises(ConfigError, match=f"what listens at {other.address} is no proxy of Warren"):
        check_proxy(other.address)
    other.close()


def test_a_port_where_nobody_listens_is_refused(tmp_path: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        nobody = Address(*bound.getsockname())
        chromium_like = program(tmp_path, "chromium", "Chromium 156")

        with pytest.raises(ConfigError, match=f"no proxy at {nobody}: Connection refused. Start"):
            browse(nobody, "about:blank", str(chromium_like))


# ---- what it is started with


def test_chromium_has_no_way_but_the_proxy(tmp_path: Path) -> None:
    command = Browser("/bin/chromium", is_firefox=False).prepare(
        tmp_path, PROXY, "http://a.example/"
    )
    preferences = json.loads((tmp_path / "Default" / "Preferences").read_text())

    assert command[0] == "/bin/chromium"
    assert command[-1] == "http://a.example/"
    assert {
        f"--user-data-dir={tmp_path}",
        "--proxy-server=socks5://127.0.0.1:1080",
        "--proxy-bypass-list=<-loopback>",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--webrtc-ip-handling-policy=disable_non_proxied_udp",
        "--disable-quic",
    } <= set(command)
    assert preferences["webrtc"]["ip_handling_policy"] == "disable_non_proxied_udp"


def test_chromium_is_told_of_an_ipv6_proxy() -> None:
    arguments = chromium.arguments(Path("x"), Address("::1", 9), "about:blank")

    assert "--proxy-server=socks5://[::1]:9" in arguments


def test_firefox_has_no_way_but_the_proxy(tmp_path: Path) -> None:
    command = Browser("/bin/firefox", is_firefox=True).prepare(
        tmp_path, Address("::1", 1080), "http://a.example/"
    )
    text = (tmp_path / "user.js").read_text()
    preferences = {
        name: json.loads(value)
        for name, value in re.findall(r'^user_pref\("([^"]+)", (.*)\);$', text, re.MULTILINE)
    }

    assert command[1:] == [
        *("--profile", str(tmp_path), "--new-instance", "--no-remote", "http://a.example/")
    ]
    assert len(preferences) == len(text.splitlines()) == len(firefox._CLOSED) + 2
    assert (
        preferences.items()
        >= {
            "network.proxy.type": 1,
            "network.proxy.socks": "::1",
            "network.proxy.socks_port": 1080,
            "network.proxy.socks_version": 5,
            "network.proxy.socks_remote_dns": True,
            "network.proxy.no_proxies_on": "",
            "network.proxy.allow_hijacking_localhost": True,
            "network.proxy.failover_direct": False,
            "network.dns.disabled": True,
            "media.peerconnection.enabled": False,
            "network.http.http3.enable": False,
        }.items()
    )


# ---- its life


def start(proxy: Listener, path: Path, scratch: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "warren", "browser", "--proxy", str(proxy.address)]
    return subprocess.Popen(
        [*command, "--browser", str(path), "http://a.example/"],
        env={**os.environ, "TMPDIR": str(scratch)},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_profile_is_private_and_gone_when_the_browser_is_closed(
    proxy: Listener, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    report = f'stat -c "%a %n" "$TMPDIR"/* > {tmp_path}/report; echo "$@" >> {tmp_path}/report'
    path = program(tmp_path, "chromium", "Chromium 156", report)

    with start(proxy, path, scratch) as process:
        errors = process.communicate(timeout=30)[1]

    first, arguments = (tmp_path / "report").read_text().splitlines()
    mode, profile = first.split()
    assert (process.returncode, errors, mode) == (0, "", "700")
    assert f"--user-data-dir={profile}" in arguments
    assert arguments.endswith(" http://a.example/")
    assert list(scratch.iterdir()) == []


def test_where_there_is_no_room_for_a_profile_it_is_said(proxy: Listener, tmp_path: Path) -> None:
    path = program(tmp_path, "chromium", "Chromium 156")
    line = f'ulimit -f 0; exec "$0" -m warren browser --proxy {proxy.address} --browser {path}'

    done = subprocess.run(
        ["/bin/sh", "-c", line, sys.executable],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip

    assert done.returncode == 2
    assert done.stderr.startswith("warren: cannot make a folder for the browser's profile: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_closes_the_browser_and_all_it_started(
    proxy: Listener, tmp_path: Path, number: signal.Signals
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    note = tmp_path / "helper"
    body = f"sleep 60 & echo $! > {note}.new; mv {note}.new {note}; wait"
    path = program(tmp_path, "chromium", "Chromium 156", body)

    with start(proxy, path, scratch) as process:
        wait_until(note.exists, 20, "the browser's start")
        process.send_signal(number)
        process.communicate(timeout=20)

    helper = int(note.read_text())
    wait_until(lambda: not is_running(helper), 5, "the end of the helper")
    assert process.returncode == 0
    assert list(scratch.iterdir()) == []


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_browser_that_does_not_want_to_end_is_ended(
    proxy: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browser, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = program(tmp_path, "chromium", "Chromium 156", "trap '' TERM; while :; do sleep 1; done")
    interrupt = threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM))
    interrupt.start()
    begun = time.monotonic()

    code = browse(proxy.address, "about:blank", str(path))

    assert code == 0
    assert 0.5 < time.monotonic() - begun < 10
    assert list(tmp_path.glob("warren-browser-*")) == []


def test_a_second_signal_does_not_wait(proxy: Listener, tmp_path: Path) -> None:
    stubborn = f"trap '' TERM; touch {tmp_path}/up; while :; do sleep 1; done"
    path = program(tmp_path, "chromium", "Chromium 156", stubborn)

    with start(proxy, path, tmp_path) as process:
        wait_until((tmp_path / "up").exists, 20, "the browser's start")
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        was_running = process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=browser.GRACE_SECONDS / 2)

    assert was_running
    assert process.returncode == 0
    assert list(tmp_path.glob("warren-browser-*")) == []


@pytest.mark.parametrize("screen", ["", ":0"])
def test_a_browser_that_fails_is_told(
    proxy: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, screen: str
) -> None:
    path = program(tmp_path, "chromium", "Chromium 156", "echo no display >&2; exit 3")
    monkeypatch.setenv("DISPLAY", screen)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)

    with start(proxy, path, tmp_path) as process:
        errors = process.communicate(timeout=30)[1]

    assert process.returncode == 2
    assert errors.splitlines()[0] == "no display"
    assert "warren: the browser ended with code 3" in errors
    assert ("it needs a screen" in errors) == (not screen)


def test_a_page_that_looks_like_an_option_is_refused(proxy: Listener, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "warren", "browser", "--", "--no-proxy-server"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "the page is '--no-proxy-server', expected an URL" in done.stderr
