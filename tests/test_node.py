"""A state folder belongs to one process."""

import os
from pathlib import Path

import pytest

from warren.config import Config
from warren.errors import ConfigError
from warren.node.process import holding_state


def test_a_state_folder_is_held_by_one_process(tmp_path: Path) -> None:
    config = Config(state=tmp_path / "state")

    with holding_state(config, "relay") as folder:
        assert folder.path == tmp_path / "state"
        with (
            pytest.raises(ConfigError, match=rf"process {os.getpid()} uses .*--state"),
            holding_state(config, "relay"),
        ):
            pass
    with holding_state(config, "relay"):
        pass
