"""Fuzz one target with atheris: ``python -m tests.fuzz TARGET FOLDER [libFuzzer's options]``.

FOLDER keeps the inputs that reached new code, so that the next run goes on from there.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["warren", "h11", "dns"]):
    from tests.fuzz.targets import SEEDS, TARGETS, timed


def main(name: str, folder: Path, *options: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[name]):
        (folder / f"seed{number}").write_bytes(seed)
    target = TARGETS[name]
    atheris.Setup(
        [sys.argv[0], str(folder), "-max_len=20000", *options], lambda data: timed(target, data)
    )
    atheris.Fuzz()


main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
