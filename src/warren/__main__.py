"""Run the ``warren`` command: ``python -m warren``."""

from warren.cli.main import main

if __name__ == "__main__":
    main()
