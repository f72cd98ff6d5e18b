"""Network namespaces for tests that take a network away: no root is needed, only util-linux.

A namespace lives as long as the process that holds it, which sleeps. ``joined_namespaces`` gives
two with a cable between them. In the first one everything of loopback is as usual, and can be
reached from the second, which has nothing of 127.0.0.0/8 itself.
"""

import contextlib
import subprocess
import time
from collections.abc import Iterator, Sequence

HERE, THERE = "10.9.0.1", "10.9.0.2"
#: Where a server in the second namespace listens.
INSIDE = "10.10.0.1"


class Namespace:
    """Own the process that holds a namespace; commands run in it behind ``prefix``."""

    def __init__(self, *prefix: str, has_users: bool) -> None:
        """Make one with `prefix` in front, and a user namespace of its own with `has_users`."""
        kind = "-Urn" if has_users else "-n"
        self._holder = subprocess.Popen([*prefix, "unshare", kind, "sleep", "infinity"])
        self.pid = self._holder.pid
        self.prefix = ("nsenter", "--preserve-credentials", "-U", "-n", "-t", str(self.pid))
        self._wait_until_made()

    def _wait_until_made(self) -> None:
        deadline = time.monotonic() + 10
        while True:
            # Who is not root in there yet loses his rights with the next program he becomes.
            look = 'test "$(id -u)" = 0 && cat /proc/net/dev'
            probe = subprocess.run(
                [*self.prefix, "sh", "-c", look], check=False, capture_output=True
            )
            lines = probe.stdout.splitlines()
            if probe.returncode == 0 and len(lines) == 3:  # two of a title, and loopback
                return
            assert time.monotonic() < deadline, probe.stderr
            time.sleep(0.05)

    def run(self, command: str) -> None:
        """Run a command with a line of words."""
        subprocess.run([*self.prefix, *command.split()], check=True, capture_output=True)

    def set_up(self, *commands: str) -> None:
        for command in commands:
            self.run(command)

    def let_loopback_through(self, device: str) -> None:
        """Let 127.0.0.0/8 be an address like any other on `device`."""
        path = f"/proc/sys/net/ipv4/conf/{device}/route_localnet"
        subprocess.run([*self.prefix, "sh", "-c", f"echo 1 > {path}"], check=True)

    def output(self, command: Sequence[str]) -> str:
        """Return what a command prints; fail when it does."""
        return subprocess.run(
            [*self.prefix, *command], check=True, capture_output=True, text=True, timeout=120
        ).stdout

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()


@contextlib.contextmanager
def joined_namespaces() -> Iterator[tuple[Namespace, Namespace]]:
    """Give two namespaces; the second reaches the first by a cable that is ``plug_in``'s."""
    near = Namespace(has_users=True)
    far = Namespace(*near.prefix, has_users=False)
    try:
        near.set_up(
            "ip link set lo up",
            f"ip link add va type veth peer name vb netns {far.pid}",
            f"ip addr add {HERE}/24 dev va",
            "ip link set va up",
        )
        far.set_up(
            "ip link set lo up",
            "ip addr del 127.0.0.1/8 dev lo",
            f"ip addr add {INSIDE}/32 dev lo",
            "ip link set vb up",
        )
        near.let_loopback_through("va")
        far.let_loopback_through("vb")
        plug_in(far, THERE)
        yield near, far
    finally:
        far.close()
        near.close()


def plug_in(far: Namespace, address: str) -> None:
    """Give the second namespace `address`, and the way to the first."""
    far.set_up(
        f"ip addr add {address}/24 dev vb",
        f"ip route add 127.0.0.0/8 via {HERE} dev vb",
    )


def unplug(far: Namespace, address: str) -> None:
    """Take the address away, and the way with it."""
    far.run(f"ip addr del {address}/24 dev vb")
