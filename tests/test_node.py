"""What a process of each kind looks at before it starts."""

import errno
import os
import re
from pathlib import Path
from random import Random

import pytest
import structlog
import trio
from trio.testing import MockClock

from tests.support.directories import network_of
from warren.addresses import Address
from warren.config.file import Config
from warren.config.relay import ExitConfig, RelayConfig
from warren.errors import ConfigError
from warren.node.process import holding_state, listen, quota_of
from warren.node.relay import _drain, run_relay
from warren.service import Announcer, LogStyle
from warren.workers.channel import Assignment
from warren.workers.foreman import Foreman


def test_a_state_folder_is_held_by_one_process(tmp_path: Path) -> None:
    config = Config(state=tmp_path / "state")

    with holding_state(config, "relay") as folder:
        assert folder.path == tmp_path / "state"
        with (
            pytest.raises(ConfigError, match=rf"process {os.getpid()} uses .*--state"),
            holding_state(config, "relay"),
        ):
            pass
    with holding_state(config, "relay"):
        pass


def test_more_memory_than_the_machine_has_is_refused() -> None:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20

    with pytest.raises(ConfigError, match=rf"relay.memory_megabytes is {machine + 1}, .*expected"):
        quota_of(machine + 1, "relay")

    assert quota_of(64, "relay") == 64 << 20
    assert 0 < quota_of(None, "proxy") <= 1 << 30


ADDRESS = Address("203.0.113.7", 443)


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EADDRINUSE, "another process listens there: stop it"),
        (errno.EADDRNOTAVAIL, "0.0.0.0 or [::] for all of them"),
        (errno.EACCES, "CAP_NET_BIND_SERVICE"),
        (errno.ENOBUFS, "choose another address or port"),
    ],
)
def test_who_cannot_listen_is_told_what_to_do(
    number: int, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bind(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("socket.socket.bind", bind)

    with pytest.raises(ConfigError, match=f"cannot listen at {ADDRESS}: .*{re.escape(advice)}"):
        listen(ADDRESS)


@pytest.mark.parametrize(
    ("address", "reason"),
    [("192.168.1.5:9440", "a private network"), ("203.0.113.7:9440", "documentation")],
)
async def test_a_relay_where_nobody_can_come_does_not_start(
    address: str, reason: str, tmp_path: Path
) -> None:
    relay = RelayConfig(Address("0.0.0.0", 9440), Address.parse(address))
    config = Config(state=tmp_path / "state", relay=relay)

    with pytest.raises(ConfigError, match=f"at {address}, which is {reason}: say in address"):
        await run_relay(config, network_of(testing=False), Announcer())

    assert not (tmp_path / "state").exists()


async def test_an_exit_without_a_worker_yet_has_nothing_to_wait_for(
    autojump_clock: MockClock,
) -> None:
    def assign() -> Assignment:
        raise AssertionError("no worker was to be started")

    with listen(Address("127.0.0.1", 0)) as listening:
        foreman = Foreman(listening, 2, assign, style=LogStyle(), rng=Random(1))

        await _drain(foreman, 30)

    assert trio.current_time() < 1


async def test_a_rule_of_an_exit_that_matches_nothing_is_named_in_the_log(tmp_path: Path) -> None:
    relay = RelayConfig(Address("127.0.0.1", 0))
    rules = ExitConfig(policy=("accept6 1.2.3.4:80", "accept *:443"))
    config = Config(state=tmp_path / "state", relay=relay, exit=rules)

    with (
        structlog.testing.capture_logs() as logs,
        holding_state(config, "relay"),
        pytest.raises(ConfigError, match="uses"),  # it is told of its rules before that
    ):
        await run_relay(config, network_of(), Announcer())

    assert [line["rule"] for line in logs if "matches nothing" in line["event"]] == [
        "accept6 1.2.3.4:80"
    ]
