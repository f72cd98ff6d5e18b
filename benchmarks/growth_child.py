"""What a process that measures itself has in common with the others: how it measures and tells.

Each measurement is a process of its own, because memory that was used before would be used again
and hide what it measures. It prints one line of JSON, numbers by name, and that is all.
Processor time is what counts, not the clock: a busy machine takes longer over the same work.
"""

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from benchmarks.processes import ProcessError, environment

T = TypeVar("T")

CHILD_SECONDS = 600.0
_PAGE = os.sysconf("SC_PAGE_SIZE")
MEBIBYTE = 1 << 20


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Return what `work` returns, and the processor seconds of this process it took."""
    begun = time.process_time()
    result = work()
    return result, time.process_time() - begun


def resident_mebibytes() -> float:
    """Return the memory of this process, once what nobody needs any more is collected."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * _PAGE / MEBIBYTE


def tell(figures: Mapping[str, float]) -> None:
    """Print what was measured, for ``run_child``."""
    sys.stdout.write(json.dumps(figures) + "\n")


def run_child(module: str, *arguments: object) -> dict[str, float]:
    """Run a module of this package as a process of its own; return what it told.

    Raises ProcessError when it fails or takes more than ten minutes.
    """
    command = [sys.executable, "-P", "-m", f"benchmarks.{module}", *map(str, arguments)]
    try:
        done = subprocess.run(
            command, capture_output=True, check=False, env=environment(), timeout=CHILD_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise ProcessError(f"{module} took more than {CHILD_SECONDS:.0f} s") from None
    if done.returncode:
        said = done.stderr[-1500:].decode("utf-8", "replace").strip()
        raise ProcessError(f"{module} ended with code {done.returncode}: {said}")
    return json.loads(done.stdout) if done.stdout else {}
