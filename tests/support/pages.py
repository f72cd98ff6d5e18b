"""What ``warren status`` prints of a process, as its user sees it."""

import subprocess
import sys
from pathlib import Path


def status_of(state: Path, *options: str) -> str:
    """Return what the command prints about the process with the state folder `state`."""
    command = [sys.executable, "-m", "warren", "status", "--state", str(state), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return str(done.stdout)
