"""Links to peers of a later release: what both speak, or a clean refusal (T78, T79)."""

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from tests.support.small_network import RelayPeer, SmallNetwork, small_network
from warren.addresses import Address
from warren.errors import LinkError
from warren.network.link import LinkSettings
from warren.protocol.cells import Ready


def make_later(monkeypatch: pytest.MonkeyPatch, peer: RelayPeer, versions: tuple[int, ...]) -> None:
    """Let the READY of `peer` alone name these link versions."""
    say_ready = LinkSettings.ready

    def ready(self: LinkSettings, remote: Address, *, is_anonymous: bool) -> Ready:
        said = say_ready(self, remote, is_anonymous=is_anonymous)
        return replace(said, versions=versions) if self is peer.settings else said

    monkeypatch.setattr(LinkSettings, "ready", ready)


async def echo(net: SmallNetwork) -> bytes:
    origin = await net.add_origin()
    application = await origin.browse(await origin.build(net.hops), net.echo())
    await application.send_all(b"hello")
    buffer = bytearray(5)
    while (count := application.receive_into(buffer)) is None:
        await application.wait_readable()
    return bytes(buffer[:count])


@pytest.mark.parametrize("versions", [(1, 2), (3, 2, 1), tuple(range(1, 17))])
@pytest.mark.parametrize("position", [0, 1, 2])
async def test_who_speaks_another_version_besides_ours_is_a_peer_like_any(
    position: int,
    versions: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: MockClock,
) -> None:  # T78
    async with small_network() as net:
        make_later(monkeypatch, net.relays[position], versions)

        assert await echo(net) == b"hello"


@pytest.mark.parametrize("versions", [(2,), (2, 3), (255,)])
async def test_who_has_no_version_in_common_is_refused_at_once(
    versions: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:  # T79
    async with small_network() as net:
        make_later(monkeypatch, net.relays[0], versions)
        origin = await net.add_origin()

        with trio.fail_after(1), pytest.raises(LinkError, match="link versions"):
            await origin.links.get(net.hops[0], is_anonymous=True)
        await trio.sleep(1)

        assert not list(net.relays[0].links)
        assert not net.memory.streams
