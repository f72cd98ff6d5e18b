"""Run the ``warren`` command: ``python -m warren``, and what is installed as ``warren``."""

import sys

from warren import outset


def main() -> None:
    """Prepare the process before anything else is imported, then run the command line."""
    outset.begin(sys.argv[1] if len(sys.argv) > 1 else None)

    from warren.cli.main import main as run_command

    run_command()


if __name__ == "__main__":
    main()
