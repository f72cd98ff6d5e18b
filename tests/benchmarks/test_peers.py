"""What Warren is compared with, and what is said when it is missing."""

from pathlib import Path

import pytest

from benchmarks.peers import DEFAULT_PEERS, PEERS, PROGRAMS, what_is_missing


def test_a_missing_program_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    text = what_is_missing(["chain"])

    assert "ss-server, ss-tunnel, ss-local" in text
    assert text.endswith("apt install --no-install-recommends shadowsocks-libev")


def test_packages_are_named_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert what_is_missing(["tor", "chain"]).endswith(" iproute2 shadowsocks-libev tor")


def test_nothing_is_missing_where_all_programs_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for programs in PROGRAMS.values():
        for program in programs:
            (tmp_path / program).touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert what_is_missing(PEERS) == ""


def test_the_peers_asked_for_by_default_exist() -> None:
    assert set(DEFAULT_PEERS) <= set(PEERS)
