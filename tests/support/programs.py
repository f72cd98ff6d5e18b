"""The system programs and files that tests use, and the Debian package that has each.

Run as a program it prints a line for every one that is missing; with ``--packages`` only the
packages, for ``apt-get install``. Where ``CI`` is set, a missing one is a failure. It uses the
standard library alone, because it runs before anything is set up.
"""

import os
import shutil
import sys
from pathlib import Path

PACKAGES = {
    "apt-get": "apt",
    "bash": "bash",
    "certutil": "libnss3-tools",
    "chromium": "chromium",
    "curl": "curl",
    "dpkg-deb": "dpkg",
    "fish": "fish",
    "git": "git",
    "ip": "iproute2",
    "nc": "netcat-openbsd",
    "ncat": "ncat",
    "node": "nodejs",
    "npm": "npm",
    "proxychains4": "proxychains4",
    "ps": "procps",
    "socat": "socat",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
    "tor-geoipdb": "tor-geoipdb",
    "torsocks": "torsocks",
    "unshare": "util-linux",
    "wget": "wget",
}
#: Where Debian keeps some of them, and an ordinary user's PATH does not lead.
_SYSTEM_FOLDERS = ("/usr/sbin", "/sbin")
#: What is there when a file is, and no program.
FILES = {"tor-geoipdb": "/usr/share/tor/geoip6"}


def missing_programs() -> list[str]:
    """Return the names of the programs that are not on the PATH, and of the files not there."""
    path = os.pathsep.join((os.environ.get("PATH", ""), *_SYSTEM_FOLDERS))
    return [
        name
        for name in PACKAGES
        if not (Path(FILES[name]).exists() if name in FILES else shutil.which(name, path=path))
    ]


def main(arguments: list[str]) -> int:
    missing = missing_programs()
    if arguments == ["--packages"]:
        sys.stdout.write(" ".join(sorted({PACKAGES[name] for name in missing})) + "\n")
        return 0
    for name in missing:
        sys.stdout.write(f"scripts/test: {name} is missing: apt install {PACKAGES[name]}\n")
    return 1 if missing and os.environ.get("CI") else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
