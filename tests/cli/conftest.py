"""What holds for commands that are called in the process of the tests."""

import pytest


@pytest.fixture(autouse=True)
def _logging_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a command from setting up the logs of its process, which is that of all tests."""
    monkeypatch.setattr("warren.service.set_up_logging", lambda _: None)
