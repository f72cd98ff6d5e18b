"""Loads without end: what they ask for, how they are counted, and that they end with us."""

import socket
import time

import pytest

from benchmarks.load import LOADS, Load
from benchmarks.processes import ProcessError, free_port
from benchmarks.route import Route
from benchmarks.systems import running_origin
from tests.support.labs import wait_until_dead

WORDS = {
    "down": b"send ",
    "up": b"take ",
    "down50": b"send ",
    "up50": b"take ",
    "echo": b"echo\n",
    "streams": b"ping\n",
}


@pytest.mark.parametrize("name", LOADS)
def test_a_load_asks_for_what_its_name_says(name: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Load(Route(listener.getsockname()), name) as load,
    ):
        sock, _ = listener.accept()
        with sock:
            assert sock.recv(5, socket.MSG_WAITALL) == WORDS[name]
        pid = load.pid

    assert not wait_until_dead([pid])


def test_round_trips_are_counted_while_they_happen() -> None:
    with running_origin() as origin, Load(Route(origin.place), "echo") as load:
        for least in (1, 10):
            while load.round_trips < least:
                load.check()
                time.sleep(0.005)

        assert load.round_trips >= 10


def test_a_load_that_ended_is_told_with_the_reason() -> None:
    with Load(Route(("127.0.0.1", free_port())), "down") as load:
        wait_until_dead([load.pid], 60)

        with pytest.raises(ProcessError, match="Connection refused"):
            load.check()
