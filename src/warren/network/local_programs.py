"""Which program of this machine holds the other end of a connection, to name it to its user.

Linux tells in ``/proc``: a table of connections has the inode of each socket, and every process's
folder has its open files. Those of other users are not ours to read, so then there is no name.
Reading it all takes some milliseconds: it is done in a thread, and rarely.
"""

import struct
from pathlib import Path

import trio

from warren.addresses import Address

_PROC = Path("/proc")
_one_at_a_time = trio.CapacityLimiter(1)


async def program_at(end: Address, other_end: Address) -> str | None:
    """Return the name of the program whose socket is at `end`, connected to `other_end`.

    None when it cannot be found out. Waits for a thread.
    """
    return await trio.to_thread.run_sync(find_program, end, other_end, limiter=_one_at_a_time)


def find_program(end: Address, other_end: Address, proc: Path = _PROC) -> str | None:
    """Do the work of ``program_at``, with the files below `proc`."""
    if end.ip is None or other_end.ip is None:
        return None
    table = proc / "net" / ("tcp" if end.ip.version == 4 else "tcp6")
    try:
        inode = find_inode(table.read_bytes(), end, other_end)
    except OSError:
        return None
    return None if inode is None else _find_owner(inode, proc)


def find_inode(table: bytes, end: Address, other_end: Address) -> int | None:
    """Return the inode of the socket from `end` to `other_end` in the kernel's `table`."""
    wanted = f" {_as_the_kernel(end)} {_as_the_kernel(other_end)} ".encode("ascii")
    start = table.find(wanted)  # not row by row: a busy machine has ten thousand
    if start < 0:
        return None
    fields = table[start : table.find(b"\n", start)].split()
    return int(fields[8]) if len(fields) > 8 and fields[8].isdigit() else None


def _as_the_kernel(address: Address) -> str:
    """Write `address` as the tables do: 32-bit words as this machine keeps them, in hex."""
    assert address.ip is not None
    packed = address.ip.packed
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{address.port:04X}"


def _find_owner(inode: int, proc: Path) -> str | None:
    wanted = f"socket:[{inode}]"
    for folder in proc.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if any(_leads_to(each, wanted) for each in (folder / "fd").iterdir()):
                return (folder / "comm").read_text(encoding="utf-8", errors="replace").strip()
        except OSError:  # another user's, or just gone
            continue
    return None


def _leads_to(file: Path, wanted: str) -> bool:
    try:
        return str(file.readlink()) == wanted
    except OSError:  # closed since the folder was read, as is the one that it was read through
        return False
