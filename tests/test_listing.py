"""A command that lists relays finds a consensus: the one named, the usual one, or none in time."""

import time
from pathlib import Path

import pytest

from tests.support.directories import NETWORK, consensus_document, network_of
from warren import listing
from warren.addresses import Address
from warren.errors import ConfigError, DirectoryError
from warren.founding import found_network


def hold(folder: Path, *, hours: int) -> None:
    """Put a consensus into `folder` that became valid so many hours ago."""
    document = consensus_document(valid_after=(int(time.time()) // 3600 - hours) * 3600)
    (folder / "consensus").write_bytes(document)


def test_the_consensus_of_a_folder_is_read_whatever_its_age(tmp_path: Path) -> None:
    hold(tmp_path, hours=1000)

    assert listing.read_held(tmp_path, NETWORK).relays
    assert listing.usable_consensus(tmp_path, NETWORK) is None


def test_one_that_can_be_used_need_not_be_fetched(tmp_path: Path) -> None:
    hold(tmp_path, hours=1)

    assert listing.usable_consensus(tmp_path, NETWORK) == listing.read_held(tmp_path, NETWORK)


def test_what_is_no_consensus_of_the_network_is_told_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*/consensus: No such file.*--state"):
        listing.read_held(tmp_path, NETWORK)
    hold(tmp_path, hours=1)
    with pytest.raises(ConfigError, match=r"/consensus is no consensus of the network other"):
        listing.read_held(tmp_path, network_of(name="other"))
    assert listing.usable_consensus(tmp_path, network_of(name="other")) is None


def test_authorities_that_do_not_answer_are_not_waited_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "FETCH_SECONDS", 0.5)
    monkeypatch.setattr(listing, "set_up_logging", lambda _: None)
    network = found_network(tmp_path, "gone", {"a": Address("127.0.0.1", 1)}, testing=True)

    with pytest.raises(DirectoryError, match=r"within 0\.5 s no consensus can be used: the auth"):
        listing.fetch_consensus(network)
