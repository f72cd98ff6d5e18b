"""Options that several programs here have: what they cannot mean is refused before anything starts.

A benchmark takes minutes, and a file that cannot be written at its end costs them all.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

T = TypeVar("T")

MOST_SECONDS = 3600.0
MOST_RUNS = 1000


def seconds(least: float) -> Callable[[str], float]:
    """Return what reads a time of `least` seconds to an hour."""

    def read(text: str) -> float:
        value = _number(float, text)
        if not least <= value <= MOST_SECONDS:
            _refuse(f"is {text}, expected {least:g} to {MOST_SECONDS:g}")
        return value

    return read


def counted(most: int) -> Callable[[str], int]:
    """Return what reads a number from 1 to `most`."""

    def read(text: str) -> int:
        value = _number(int, text)
        if not 1 <= value <= most:
            _refuse(f"is {text}, expected 1 to {most}")
        return value

    return read


def new_file(text: str) -> Path:
    """Read the path of a file to be written at the end, which must be possible."""
    path = Path(text)
    is_new = not path.exists()
    if not text or not (is_new or path.is_file()):
        _refuse(f"{text!r} is no file, expected the name of one to be written")
    try:
        path.open("ab").close()
        if is_new:
            path.unlink()
    except OSError as error:
        _refuse(f"cannot write {text!r}: {error.strerror}; name another file")
    return path


def new_folder(text: str) -> Path:
    """Read the path of a folder to write into, which is made where there is none."""
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _refuse(f"cannot make {text!r}: {error.strerror}; name another folder")
    if not text or not os.access(path, os.W_OK):
        _refuse(f"{text!r} may not be written into; name another folder")
    return path


def _number(kind: Callable[[str], T], text: str) -> T:
    try:
        return kind(text)
    except ValueError:
        _refuse(f"{text!r} is no such number")


def _refuse(why: str) -> NoReturn:
    raise argparse.ArgumentTypeError(why)
