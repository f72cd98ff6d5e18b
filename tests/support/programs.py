"""The system programs and files that tests use, and the Debian package that has each.

Run as a program it prints a line for every one that is missing; with ``--packages`` only the
packages, for ``apt-get install``. Where ``CI`` is set, a missing one is a failure. What a machine
must allow, and cannot be installed, is told in the same way. It uses the standard library alone,
because it runs before anything is set up.
"""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = {
    "apt-get": "apt",
    "bash": "bash",
    "certutil": "libnss3-tools",
    "chromium": "chromium",
    "curl": "curl",
    "dpkg-deb": "dpkg",
    "firefox-esr": "firefox-esr",
    "fish": "fish",
    "gcc": "gcc libc6-dev",
    "git": "git",
    "ip": "iproute2",
    "nc": "netcat-openbsd",
    "ncat": "ncat",
    "node": "nodejs",
    "npm": "npm",
    "nsenter": "util-linux",
    "proxychains4": "proxychains4",
    "proxytunnel": "proxytunnel",
    "ps": "procps",
    "rsync": "rsync",
    "setpriv": "util-linux",
    "socat": "socat",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
    "systemd-analyze": "systemd",
    "tor-geoipdb": "tor-geoipdb",
    "torsocks": "torsocks",
    "unshare": "util-linux",
    "wget": "wget",
}
#: What tests need a machine to allow, and what to do where it does not.
PERMISSIONS = {
    "namespaces": "let users make user namespaces: sysctl user.max_user_namespaces, "
    "kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns",
}
#: Somebody with no rights and no name, for tests that run as root.
NOBODY = 4242
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


def as_ordinary_user() -> list[str]:
    """Return the words before a command that make it run without the rights of root."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


@functools.cache
def missing_permissions() -> list[str]:
    """Return which of ``PERMISSIONS`` this machine does not give to an ordinary user."""
    try:
        command = [
            *as_ordinary_user(),
            "unshare",
            "-Urnm",
            "mount",
            "--bind",
            "/dev/null",
            "/dev/zero",
        ]
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError:
        return list(PERMISSIONS)
    return [] if done.returncode == 0 else list(PERMISSIONS)


def main(arguments: list[str]) -> int:
    missing = missing_programs()
    if arguments == ["--packages"]:
        sys.stdout.write(" ".join(sorted({PACKAGES[name] for name in missing})) + "\n")
        return 0
    for name in missing:
        sys.stdout.write(f"scripts/test: {name} is missing: apt install {PACKAGES[name]}\n")
    forbidden = missing_permissions()
    for name in forbidden:
        sys.stdout.write(f"scripts/test: {name} are forbidden: {PERMISSIONS[name]}\n")
    return 1 if (missing or forbidden) and os.environ.get("CI") else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
