"""What the stories share: one target and one network, both up until the last of them is told.

A story that kills peers runs a network of its own. When all is told, no peer may have logged a
bug, or what somebody asked for.
"""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browsers import Canary, canary
from tests.support.daemons import Daemon, running_daemons
from tests.support.handmade import HandmadeNetwork, running_handmade_network
from tests.support.hostile_site import (
    HOSTILE_HOST,
    HOSTILE_NAME,
    HostileSite,
    running_hostile_site,
)
from tests.support.journeys import check_logs
from tests.support.labs import RunningLab, running_lab
from tests.support.recipes import Kitchen
from tests.support.web_origin import NAME, Origin, running_origin

#: What the applications of the stories ask for is no business of any log.
SECRETS = (NAME, HOSTILE_NAME, "inside.origin.example", "peer.example")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tell the stories of a module that says ``IN_ORDER`` in their order, not in any."""
    for module in {getattr(item, "module", None) for item in items}:
        if getattr(module, "IN_ORDER", False):
            places = [
                at for at, item in enumerate(items) if getattr(item, "module", None) is module
            ]
            told = sorted((items[at] for at in places), key=lambda item: item.location[1] or 0)
            for at, item in zip(places, told, strict=True):
                items[at] = item


@pytest.fixture(scope="session")
def origin() -> Iterator[Origin]:
    with running_origin() as origin:
        yield origin


@pytest.fixture(scope="session")
def daemons() -> Iterator[dict[str, Daemon]]:
    """Return what the origin has besides the web; a test says which program serves it."""
    with running_daemons("git", "rsync", "ssh") as daemons:
        yield daemons


@pytest.fixture(scope="session")
def hostile() -> Iterator[HostileSite]:
    with running_hostile_site() as site:
        yield site


@pytest.fixture(scope="session")
def lab_options(origin: Origin, daemons: dict[str, Daemon], hostile: HostileSite) -> list[str]:
    """Return the options for a lab whose exits reach the origin and its like, by their names.

    One exit is in Germany, one in France, and of one nobody knows.
    """
    others = (daemon.address for daemon in daemons.values())
    allowed = (*origin.addresses, *others, *hostile.addresses)
    targets = [word for each in allowed for word in ("--allow-target", str(each))]
    names = [
        f"{NAME}=127.0.0.1",
        f"{HOSTILE_NAME}={HOSTILE_HOST}",
        "inside.origin.example=10.0.0.1",
    ]
    countries = ["exit1=de", "exit2=fr"]
    return [
        *targets,
        *(word for name in names for word in ("--host", name)),
        *(word for country in countries for word in ("--country", country)),
    ]


@pytest.fixture(scope="session")
def lab(lab_options: list[str]) -> Iterator[RunningLab]:
    with running_lab(*lab_options) as running:
        yield running
        check_logs(Path(running.ready["dir"]), *SECRETS)


@pytest.fixture
def kitchen(lab: RunningLab, origin: Origin, daemons: dict[str, Daemon], tmp_path: Path) -> Kitchen:
    """Return where recipes of docs/clients.md are tried against the lab."""
    ports = {name: daemon.address.port for name, daemon in daemons.items()}
    return Kitchen(tmp_path, lab.proxy, origin, ports)


@pytest.fixture
def udp() -> Iterator[Canary]:
    with canary(socket.SOCK_DGRAM) as bird:
        yield bird


@pytest.fixture
def tcp() -> Iterator[Canary]:
    with canary(socket.SOCK_STREAM) as bird:
        yield bird


@pytest.fixture(scope="session")
def handmade(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HandmadeNetwork]:
    with running_handmade_network(tmp_path_factory.mktemp("handmade"), origin) as network:
        yield network
    check_logs(network.folder, *SECRETS)
