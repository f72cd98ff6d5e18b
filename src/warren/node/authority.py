"""A directory authority as a process."""

import time
from typing import Any

import trio

from warren.config.file import Config, state_directory
from warren.country_files import load_countries
from warren.directory.network_file import Authority as NetworkAuthority
from warren.directory.network_file import NetworkFile
from warren.errors import ConfigError
from warren.identity import Hop, SystemKeys
from warren.key_files import KeyFiles, check_keys_exist
from warren.network import reserve
from warren.network.link import RelayKeys
from warren.network.link_door import LinkDoor
from warren.network.listening import SocketListener
from warren.node.process import answering, holding_state, listen
from warren.peer import running_peer
from warren.roles.authority import BODY_LIMITS, Authority
from warren.roles.directory_door import DirectoryDoor
from warren.roles.known_places import KnownPlaces
from warren.roles.last_hop import LastHop
from warren.roles.relay import Relay
from warren.service import Announcer
from warren.serving import answer_directory, relay_keys
from warren.storage import DataFolder


async def run_authority(config: Config, network: NetworkFile, announcer: Announcer) -> None:
    """Be the authority ``config.authority.name`` of `network`."""
    wanted = config.authority
    assert wanted is not None
    entry = next((each for each in network.authorities if each.name == wanted.name), None)
    if entry is None:
        names = ", ".join(each.name for each in network.authorities)
        raise ConfigError(
            f"the network {network.name} has no authority {wanted.name!r}: expected one of {names}"
        )
    check_keys_exist(wanted.keys or state_directory(config, "authority"))
    countries = load_countries(wanted.countries)
    with holding_state(config, "authority") as folder:
        long_lived = KeyFiles(DataFolder(wanted.keys), SystemKeys()) if wanted.keys else None
        files = KeyFiles(folder, SystemKeys())
        keys = relay_keys(long_lived or files, files, is_known=True)
        _check_keys_of(entry, keys)
        listener = SocketListener(listen(wanted.listen or entry.hop.address))
        async with running_peer(network, folder, keys=keys) as peer:

            async def check(hop: Hop) -> bool:
                await peer.links.probe(hop)
                return True

            authority = Authority(
                keys.identity,
                peer.archive,
                folder,
                peer.fetch,
                check,
                now=time.time,
                country_of=countries.find,
            )
            directory_door = DirectoryDoor(network)
            answer = answer_directory(
                directory_door, authority.handle, BODY_LIMITS, authority.large_bodies
            )
            peer.answer_with(
                Relay(peer.turn, peer.settings, LastHop(answer), find_hops=lambda _: ())
            )

            async def statistics() -> dict[str, Any]:
                return {
                    "role": "authority",
                    "name": wanted.name,
                    "network": network.name,
                    "id": str(keys.identity.peer_id),
                    "address": str(listener.local),
                    "links": peer.links.statistics(),
                    "sockets": reserve.here().statistics(),
                    "memory": peer.quota.statistics(),
                    "requests_turned_away": directory_door.requests_turned_away,
                    "descriptors_turned_away": directory_door.uploads_turned_away,
                    **authority.statistics(),
                }

            async with answering("authority", folder.path, statistics):
                await peer.turn.nursery.start(authority.run)
                door = LinkDoor(is_known=KnownPlaces(peer.archive).knows)
                peer.turn.nursery.start_soon(peer.links.serve, listener, door)
                announcer.listening([listener.local], keys.identity.peer_id)
                await peer.archive.wait_for_consensus()
                announcer.usable()
                await trio.sleep_forever()


def _check_keys_of(authority: NetworkAuthority, keys: RelayKeys) -> None:
    """Raise ConfigError unless these are the keys that the network file names."""
    for what, found, expected in (
        ("peer id", keys.identity.peer_id, authority.hop.peer_id),
        ("link key", keys.link_keys[0].public, authority.hop.link_key),
    ):
        if found != expected:
            raise ConfigError(
                f"the {what} of {authority.name} is not the one in the network file: say in keys "
                "where the keys are that warren network create made"
            )
