import socket
import sys
from pathlib import Path

import pytest
import trio

from warren.addresses import Address
from warren.network.local_programs import find_inode, find_program, program_at

HERE = f"{int.from_bytes(bytes((127, 0, 0, 1)), sys.byteorder):08X}"
TABLE = f"""\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: {HERE}:0438 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0
   1: {HERE}:C350 {HERE}:0438 01 00000000:00000000 00:00000000 00000000  1000        0 222 1 0
   2: {HERE}:0438 {HERE}:C350 01 00000000:00000000 00:00000000 00000000     0        0 333 1 0
   3: short line
""".encode()


def this_program() -> str:
    return Path("/proc/self/comm").read_text(encoding="utf-8").strip()


def end_of(sock: socket.socket) -> Address:
    host, port = sock.getsockname()[:2]
    return Address(host, port)


def test_the_row_of_the_clients_end_is_found() -> None:
    client, proxy = Address("127.0.0.1", 50000), Address("127.0.0.1", 1080)

    assert find_inode(TABLE, client, proxy) == 222
    assert find_inode(TABLE, proxy, client) == 333
    assert find_inode(TABLE, Address("127.0.0.1", 50001), proxy) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_program_of_this_user_is_named(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.create_server((host, 0), family=family) as server,
        socket.create_connection(server.getsockname()[:2]) as client,
        server.accept()[0] as accepted,
    ):
        assert await program_at(end_of(client), end_of(accepted)) == this_program()


async def test_nobody_is_named_who_is_not_there() -> None:
    with trio.fail_after(5):
        assert await program_at(Address("127.0.0.1", 1), Address("127.0.0.1", 2)) is None


def test_a_system_without_such_tables_has_no_names(tmp_path: Path) -> None:
    assert find_program(Address("127.0.0.1", 1), Address("127.0.0.1", 2), tmp_path) is None


def test_processes_that_cannot_be_read_are_passed_by(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "tcp").write_bytes(TABLE)
    (tmp_path / "17").mkdir()  # gone between two looks: it has no folder of files
    (tmp_path / "self").mkdir()
    (tmp_path / "18" / "fd").mkdir(parents=True)
    (tmp_path / "18" / "fd" / "0").symlink_to("/dev/null")
    for number in range(10, 40):
        (tmp_path / "18" / "fd" / str(number)).touch()  # closed between two looks: no link
    (tmp_path / "18" / "fd" / "5").symlink_to("socket:[222]")
    (tmp_path / "18" / "comm").write_text("browser\n")

    found = find_program(Address("127.0.0.1", 50000), Address("127.0.0.1", 1080), tmp_path)

    assert found == "browser"
