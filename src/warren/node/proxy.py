"""A proxy as a process, with the DNS ports that are configured."""

import time
from functools import partial
from random import SystemRandom
from typing import TYPE_CHECKING, Any

import trio

from warren.config.file import Config
from warren.config.proxy import ListenerConfig
from warren.directory.network_file import NetworkFile
from warren.identity import SystemKeys
from warren.network import reserve
from warren.network.interruptions import Interruption
from warren.network.keys_ahead import KeysAhead
from warren.network.listening import SocketListener
from warren.node.own_relays import keep_finding
from warren.node.process import answering, holding_state, listen, quota_of
from warren.peer import World, running_peer
from warren.protocol.front import Login
from warren.roles.client import Client
from warren.roles.guard_keeper import GuardKeeper
from warren.roles.idleness import IdleLimits
from warren.roles.listener_rules import ListenerRules
from warren.roles.mirror import Directory
from warren.roles.own_relays import OwnRelays
from warren.roles.proxy import Proxy
from warren.roles.requests import ProxyLimits
from warren.service import Announcer

if TYPE_CHECKING:
    from warren.network.dns_port import DnsPort
    from warren.roles.dns_door import DnsDoor


async def run_proxy(
    config: Config, network: NetworkFile, announcer: Announcer, *, is_for_names: bool = False
) -> None:
    """Be a proxy, with the DNS ports that are configured, or these alone if `is_for_names`.

    ``announcer.usable`` once the first circuit is there.
    """
    wanted = config.proxy
    keys = KeysAhead(SystemKeys())
    front = reserve.here().front
    with holding_state(config, "proxy") as folder:
        memory, world = quota_of(wanted.memory_megabytes, "proxy"), World(keys=keys)
        async with running_peer(network, folder, memory=memory, world=world) as peer:
            own = OwnRelays(wanted.own_relays)
            directory = Directory(
                peer.archive,
                peer.fetch,
                now=time.time,
                rng=SystemRandom(),
                own=own,
                clock_error=peer.clock_error,
            )
            guards = GuardKeeper(folder, own=own)
            client = Client(
                peer.links,
                directory,
                guards,
                hops=wanted.hops,
                own=own,
                allow_targets=wanted.allow_targets,
                is_offline=lambda: peer.interruptions.is_down,
                resumes=wanted.resume,
                idle=IdleLimits(wanted.idle_seconds, wanted.half_open_seconds),
            )
            peer.interruptions.on_interruption.append(partial(_begin_anew, directory, client))
            peer.quota.sources.append(client.backlogs)
            proxy = Proxy(
                client,
                datagrams=client,
                allow_clients=wanted.allow_clients,
                allow_targets=wanted.allow_targets,
                safe_socks=wanted.safe_socks,
                limits=ProxyLimits(
                    connections=wanted.connections, idle_seconds=wanted.idle_seconds
                ),
                share=front,
            )

            door, ports = _open_dns_door(config, client, proxy)
            listeners = [
                (SocketListener(listen(address), share=front), _rules_of(listener))
                for address, listener in (() if is_for_names else wanted.listeners)
            ]
            places = [listener.local for listener, _ in listeners]

            async def statistics() -> dict[str, Any]:
                return {
                    "role": "proxy",
                    "network": network.name,
                    "listen": [str(place) for place in places],
                    "dns_listen": [str(port.local) for port in ports],
                    "proxy": proxy.statistics(),
                    "dns": door.statistics() if door is not None else None,
                    "links": peer.links.statistics(),
                    "sockets": reserve.here().statistics(),
                    "memory": peer.quota.statistics(),
                    "directory": directory.statistics(),
                    "guards": guards.statistics(),
                    "interruptions": peer.interruptions.statistics(),
                    **client.statistics(),
                }

            nursery = peer.turn.nursery
            async with answering("proxy", folder.path, statistics):
                finds = wanted.find_own_relays
                # A network for tests may be one user's whole: there would be nobody to go through.
                if finds or (finds is None and not network.testing):
                    await nursery.start(keep_finding, own)  # before any path is chosen
                nursery.start_soon(directory.run)
                nursery.start_soon(client.run)
                nursery.start_soon(keys.run)
                for listener, rules in listeners:
                    nursery.start_soon(proxy.serve, listener, nursery, "", rules)
                for port in ports:
                    nursery.start_soon(port.serve)
                announcer.listening(places + [port.local for port in ports])
                await client.is_usable.wait()
                announcer.usable()
                try:
                    await trio.sleep_forever()
                finally:
                    client.close()


def _open_dns_door(
    config: Config, client: Client, proxy: Proxy
) -> tuple["DnsDoor | None", list["DnsPort"]]:
    """Bind the DNS ports that are configured; they serve once they are told to."""
    wanted = config.proxy
    if not wanted.dns_listen:
        return None, []
    from warren.roles.dns_door import DnsDoor

    door = DnsDoor(
        client,
        tell=proxy.leaks.tell,
        allow_clients=wanted.allow_clients,
        allow_targets=wanted.allow_targets,
    )
    return door, [door.listen(address) for address in wanted.dns_listen]


def _begin_anew(directory: Directory, client: Client, what: Interruption) -> None:
    """Let nothing go on waiting for what an interruption has made worthless."""
    directory.look_again()
    if what.breaks_links:
        client.interrupted()


def _rules_of(listener: ListenerConfig) -> ListenerRules:
    login = None
    if listener.user is not None and listener.password is not None:
        login = Login.of(listener.user, listener.password)
    return ListenerRules(
        login,
        listener.choice,
        listener.isolate,
        safe_socks=listener.safe_socks,
        early_reply=listener.early_reply,
    )
