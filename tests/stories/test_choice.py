"""What a request or a listener chooses, with curl: country, exit, hops, session, password.

Where a stream left is counted by the exits themselves.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.journeys import statistics, without_proxies
from tests.support.labs import RunningLab, running_proxy
from tests.support.web_origin import Origin
from warren.status.control import ask, find_socket

pytestmark = [pytest.mark.processes, pytest.mark.needs("curl"), pytest.mark.timeout(120)]

EXITS = {"exit1": "de", "exit2": "fr", "exit3": "??"}
WAYS = ["socks5h", "http"]
# curl(1), EXIT CODES
PROXY_REFUSED, BROKEN = 97, 56
BODY = bytes(1_000_000)
#: Cells of a body like that, and fewer than any other traffic makes.
MANY_CELLS = 200


def curl(
    proxy: str, url: str, user: str | None = None, *options: str, output: str = "/dev/null"
) -> subprocess.CompletedProcess[str]:
    """Fetch `url` through `proxy`, as `user` (name and password); what was said is in stderr."""
    login = ["--proxy-user", user] if user is not None else []
    usual = ["curl", "-q", "-sS", "-v", "--max-time", "60", "-o", output]
    return subprocess.run(
        [*usual, "-x", proxy, *login, *options, url],
        capture_output=True,
        text=True,
        check=False,
        env=without_proxies(),
    )


class Choosing:
    """Fetch through a lab, and see which exits it was."""

    def __init__(self, lab: RunningLab, origin: Origin) -> None:
        self.lab, self.origin = lab, origin
        origin.files["/choice"] = ("application/octet-stream", BODY)

    def connected(self) -> dict[str, int]:
        """Return how many streams each exit has connected so far."""
        return {name: statistics(self.lab, name)["exit"]["connected"] for name in EXITS}

    def exits_of(self, fetch: Callable[[], None]) -> set[str]:
        """Return the exits that `fetch` went through."""
        before = self.connected()
        fetch()
        after = self.connected()
        return {name for name in EXITS if after[name] > before[name]}

    def fetch(self, user: str, way: str = "socks5h", path: str = "/") -> None:
        """Fetch a page as `user`; it must come."""
        done = curl(f"{way}://{self.lab.proxy}", self.origin.url(path), user)
        assert done.returncode == 0, done.stderr
        assert "< HTTP/1.1 200 OK" in done.stderr.replace("HTTP/1.0", "HTTP/1.1"), done.stderr

    def refusal(self, user: str) -> tuple[int, str]:
        """Return the SOCKS code and the Proxy-Status with which `user` is refused."""
        by_socks = curl(f"socks5h://{self.lab.proxy}", self.origin.url("/"), user)
        assert by_socks.returncode == PROXY_REFUSED
        by_http = curl(f"http://{self.lab.proxy}", self.origin.url("/"), user)
        heads = [line for line in by_http.stderr.splitlines() if "Proxy-Status: " in line]
        assert len(heads) == 1, by_http.stderr
        code = int(by_socks.stderr.rstrip().rpartition("(")[2].removesuffix(")"))
        return code, heads[0].partition("Proxy-Status: ")[2]

    def relays(self, *options: str) -> list[list[str]]:
        """Return the lines of ``warren network relays``, in words."""
        state = Path(self.lab.ready["dir"]) / "proxy"
        done = self.list_relays("--state", str(state), *options)
        assert (done.returncode, done.stderr) == (0, "")
        return [line.split() for line in done.stdout.splitlines()]

    def list_relays(
        self, *options: str, home: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``warren network relays``, as somebody whose state is in `home`."""
        network = f"{self.lab.ready['dir']}/network.toml"
        command = [sys.executable, "-m", "warren", "network", "relays", "--network", network]
        environment = {**os.environ, "XDG_STATE_HOME": str(home)} if home else None
        return subprocess.run(
            [*command, *options], capture_output=True, text=True, check=False, env=environment
        )


@pytest.fixture(scope="module")
def net(lab: RunningLab, origin: Origin) -> Choosing:
    return Choosing(lab, origin)


# ---- countries and exits


def test_the_network_is_listed_with_its_countries(net: Choosing) -> None:
    by_country = {words[1]: words for words in net.relays("--exits")}

    assert by_country.keys() == set(EXITS.values())
    assert len(net.relays()) == 9
    assert net.relays("--country", "DE") == [by_country["de"]]
    shown = statistics(net.lab, "proxy")["directory"]["exits_by_country"]
    assert shown == dict.fromkeys(sorted(EXITS.values()), 1)


def test_a_newcomer_is_listed_the_relays_too(net: Choosing, tmp_path: Path) -> None:
    """Whoever has no state folder asks the authorities, and keeps nothing."""
    done = net.list_relays(home=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert {line.split()[0] for line in done.stdout.splitlines()} == {
        words[0] for words in net.relays()
    }
    assert list(tmp_path.iterdir()) == []


def test_a_country_without_exits_is_told(net: Choosing, tmp_path: Path) -> None:
    done = net.list_relays("--exits", "--country", "xx", home=tmp_path)

    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "warren: no exit in xx; there are some in ??, de, fr\n"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("exit_name", "country"), [("exit1", "de"), ("exit2", "fr")])
def test_a_country_is_where_streams_leave(
    net: Choosing, way: str, exit_name: str, country: str
) -> None:
    def fetch() -> None:
        for number in range(6):
            net.fetch(f"{way}{number}+country={country}:", way)

    assert net.exits_of(fetch) == {exit_name}


@pytest.mark.parametrize(
    ("user", "code", "status"),
    [
        ("x+country=xy:", 3, "destination_unavailable; details=\"no exit in country 'xy' allows"),
        ("x+exit=" + 52 * "a" + ":", 3, "which should be the exit, is not listed as running"),
        ("x+country=germany:", 2, 'http_request_denied; details="a country is two letters'),
        ("x+hops=6:", 2, 'http_request_denied; details="hops is a number from 2 to 5"'),
        ("x+colour=red:", 2, "unknown parameter; known here: country, exit, hops, session"),
    ],
)
def test_what_cannot_be_had_is_refused_and_why_is_said(
    net: Choosing, user: str, code: int, status: str
) -> None:
    before = net.connected()

    said, proxy_status = net.refusal(user)

    assert said == code
    assert proxy_status.startswith("warren; error=")
    assert status in proxy_status
    assert net.connected() == before


def test_an_exit_is_named_by_its_id(net: Choosing) -> None:
    names = {country: name for name, country in EXITS.items()}
    for peer_id, country, *_ in net.relays("--exits"):
        assert net.exits_of(lambda: net.fetch(f"x+exit={peer_id}:", "http")) == {names[country]}  # noqa: B023


def test_an_exit_in_another_country_is_refused(net: Choosing) -> None:
    ((peer_id, *_),) = net.relays("--country", "de")

    assert "is not in country 'fr'" in net.refusal(f"x+exit={peer_id}+country=fr:")[1]


# ---- hops and sessions


@pytest.mark.parametrize("hops", [2, 3, 4, 5])
def test_a_stream_crosses_as_many_relays_as_were_asked_for(net: Choosing, hops: int) -> None:
    relays = [peer["name"] for role in ("relay", "exit") for peer in net.lab.of_role(role)]

    def carried() -> dict[str, int]:
        return {name: statistics(net.lab, name)["cells"]["backward"] for name in relays}

    before = carried()
    net.fetch(f"long{hops}+hops={hops}:", path="/choice")
    after = carried()

    assert sum(after[name] - before[name] > MANY_CELLS for name in relays) == hops


def test_a_session_keeps_its_exit_while_others_change(net: Choosing) -> None:
    others: set[str] = set()
    in_session: set[str] = set()

    for number in range(25):
        in_session |= net.exits_of(lambda: net.fetch("me+session=7:", WAYS[0]))
        others |= net.exits_of(lambda: net.fetch(f"other{number}:"))  # noqa: B023

    assert len(in_session) == 1
    assert len(others) > 1


def test_sessions_with_different_names_are_different(net: Choosing) -> None:
    exits = {
        name
        for number in range(12)
        for name in net.exits_of(lambda: net.fetch(f"me+session={number}:"))  # noqa: B023
    }

    assert len(exits) > 1


# ---- listeners

LISTENERS = """
network = {network}
state = {state}

[proxy]
listen = ["127.0.0.1:0"]
allow_targets = {targets}
user = "me"
password = "a secret"

[[proxy.listener]]
listen = "127.0.0.1:0"
country = "fr"
hops = 2
session = true
isolate = ["destination_port"]

[[proxy.listener]]
listen = "127.0.0.1:0"
early_reply = true
"""


@pytest.fixture(scope="module")
def listeners(net: Choosing, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Listeners"]:
    """Run one more proxy of the lab's network, with three listeners."""
    folder = tmp_path_factory.mktemp("listeners")
    config = folder / "proxy.toml"
    config.write_text(
        LISTENERS.format(
            network=json.dumps(str(Path(net.lab.ready["dir"]) / "network.toml")),
            state=json.dumps(str(folder / "state")),
            targets=json.dumps([str(each) for each in net.origin.addresses]),
        )
    )
    with running_proxy(config) as addresses:
        yield Listeners(net, folder / "state", *addresses)
    assert "secret" not in (folder / "proxy.log").read_text()


class Listeners:
    """Hold the addresses of a listener with a password, one for France and one in a hurry."""

    def __init__(self, net: Choosing, state: Path, locked: str, french: str, hasty: str) -> None:
        self.net, self.locked, self.french, self.hasty = net, locked, french, hasty
        self.url = net.origin.url("/")
        self._state = state

    def statistics(self) -> dict[str, Any]:
        return ask(find_socket(self._state))


@pytest.mark.parametrize("user", ["me:a secret", "me+work:a secret", "me+country=de:a secret"])
@pytest.mark.parametrize("way", WAYS)
def test_the_right_password_opens_a_listener(listeners: Listeners, way: str, user: str) -> None:
    done = curl(f"{way}://{listeners.locked}", listeners.url, user)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("user", [None, "me:another secret", "you:a secret", "me:"])
def test_without_it_nobody_gets_in(listeners: Listeners, user: str | None) -> None:
    before = listeners.net.connected()

    by_socks = curl(f"socks5h://{listeners.locked}", listeners.url, user)
    by_http = curl(f"http://{listeners.locked}", listeners.url, user)

    assert by_socks.returncode == PROXY_REFUSED
    assert "< HTTP/1.1 407 Proxy Authentication Required" in by_http.stderr
    assert '< Proxy-Authenticate: Basic realm="Warren", charset="UTF-8"' in by_http.stderr
    assert listeners.net.connected() == before


def test_a_tunnel_is_tried_again_with_the_password_when_it_is_asked_for(
    listeners: Listeners,
) -> None:
    options = ["--proxy-anyauth", "--proxytunnel"]

    done = curl(f"http://{listeners.locked}", listeners.url, "me:a secret", *options)

    assert done.returncode == 0, done.stderr
    assert "< HTTP/1.1 407 Proxy Authentication Required" in done.stderr
    assert "< HTTP/1.1 200 Connection established" in done.stderr


def test_a_listener_chooses_for_all_its_streams(listeners: Listeners) -> None:
    def fetch() -> None:
        for number in range(5):
            done = curl(f"socks5h://{listeners.french}", listeners.url, f"{number}:")
            assert done.returncode == 0, done.stderr

    assert listeners.net.exits_of(fetch) == {"exit2"}
    used = [c for c in listeners.statistics()["circuits"] if c["countries"][-1] == "fr"]
    assert {len(circuit["path"]) for circuit in used if circuit["used"]} >= {2}


def test_a_request_goes_before_its_listener(listeners: Listeners) -> None:
    def fetch() -> None:
        done = curl(f"http://{listeners.french}", listeners.url, "x+country=de:")
        assert done.returncode == 0, done.stderr

    assert listeners.net.exits_of(fetch) == {"exit1"}


def test_a_listener_in_a_hurry_tells_of_success_first_and_delivers(listeners: Listeners) -> None:
    url = listeners.net.origin.url("/choice")
    before = listeners.statistics()["proxy"]["replied_early"]

    done = [curl(f"socks5h://{listeners.hasty}", url, output="-") for _ in range(5)]

    assert [(each.returncode, each.stdout) for each in done] == [(0, BODY.decode())] * 5
    assert listeners.statistics()["proxy"]["replied_early"] >= before + 4


def test_what_it_promised_in_vain_is_a_reset_and_http_hears_the_truth(
    listeners: Listeners,
) -> None:
    nowhere = "http://missing.example/"

    by_socks = curl(f"socks5h://{listeners.hasty}", nowhere)
    by_http = curl(f"http://{listeners.hasty}", nowhere, None, "--proxytunnel")

    assert by_socks.returncode == BROKEN
    assert "Connection reset" in by_socks.stderr
    assert "< HTTP/1.1 503" in by_http.stderr
