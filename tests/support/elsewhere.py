"""A lab in a network of its own, whose origin is not at a loopback address.

Some programs never connect to one. In a network namespace, which an ordinary user may make, any
address can be the origin's. Run as a program it tries the recipes below one heading there, prints
what they print, and fails when one of them does.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.labs import running_lab
from tests.support.recipes import ROOT, Done, Kitchen, recipes_of
from tests.support.web_origin import NAME, running_origin

HOST = "203.0.113.9"  # RFC 5737: an address that is nobody's
SECONDS = 100


def try_elsewhere(heading: str) -> Done:
    """Try the recipes below `heading` in a new network namespace; return what they print."""
    inside = f'ip link set lo up && ip addr add {HOST}/32 dev lo && exec "$@"'
    return subprocess.run(
        [
            *("unshare", "--user", "--map-root-user", "--net", "sh", "-c", inside, "sh"),
            *(sys.executable, "-m", "tests.support.elsewhere", heading),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def main(heading: str) -> int:
    with running_origin(HOST) as origin, tempfile.TemporaryDirectory() as folder:
        targets = [word for each in origin.addresses for word in ("--allow-target", str(each))]
        small = ["--authorities", "1", "--relays", "3", "--exits", "1"]
        with running_lab(*small, *targets, "--host", f"{NAME}={HOST}") as lab:
            kitchen = Kitchen(Path(folder), lab.proxy, origin, {})
            tried = [kitchen.try_out(recipe) for recipe in recipes_of(heading)]
    for done in tried:
        sys.stdout.write(done.stdout)
        sys.stderr.write(done.stderr)
    return max(done.returncode for done in tried)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
