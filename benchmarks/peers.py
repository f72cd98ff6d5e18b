"""What Warren is compared with, and the programs that takes.

Nothing is installed here: whoever wants a comparison is told what to install.
"""

import shutil
from collections.abc import Iterable, Mapping

from benchmarks.chain import Chain
from benchmarks.systems import Direct, System
from benchmarks.tor_network import BulkTorNetwork, TorNetwork

PEERS: Mapping[str, type[System]] = {
    system.name: system for system in (TorNetwork, BulkTorNetwork, Chain, Direct)
}
DEFAULT_PEERS = ("tor", "chain")

#: The programs that each peer needs, and the Debian package that has them.
_TOR = {"tor": "tor", "tor-gencert": "tor", "ip": "iproute2"}
_CHAIN = dict.fromkeys(("ss-server", "ss-tunnel", "ss-local"), "shadowsocks-libev")
PROGRAMS: Mapping[str, Mapping[str, str]] = {"tor": _TOR, "tor-bulk": _TOR, "chain": _CHAIN}


def what_is_missing(peers: Iterable[str]) -> str:
    """Return a sentence that says what to install before `peers` can run; empty if nothing."""
    needed: dict[str, str] = {}
    for peer in peers:
        needed.update(PROGRAMS.get(peer, {}))
    missing = [program for program in needed if shutil.which(program) is None]
    if not missing:
        return ""
    packages = sorted({needed[program] for program in missing})
    return (
        f"missing for --peers: {', '.join(missing)}. On Debian: "
        f"apt install --no-install-recommends {' '.join(packages)}"
    )
