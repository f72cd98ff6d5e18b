"""Firefox: the preferences that leave the proxy as the only way out.

They stand in ``user.js`` of the profile, which Firefox reads at each start and which wins over what
it remembers. It resolves no names at all (``network.dns.disabled``); ``socks_remote_dns`` hands
them to the proxy. What stays switched on, such as updates, goes through the proxy like any page.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from warren.addresses import Address

_OFF = 0
_SOCKS_5 = 5
_MANUAL = 1
_TRR_OFF_BY_CHOICE = 5

#: What does not depend on where the proxy is.
_CLOSED: Mapping[str, bool | int | str] = {
    "network.proxy.type": _MANUAL,
    "network.proxy.socks_version": _SOCKS_5,
    "network.proxy.socks_remote_dns": True,
    # No exceptions, also not for this machine, and never directly when the proxy fails.
    "network.proxy.no_proxies_on": "",
    "network.proxy.allow_hijacking_localhost": True,
    "network.proxy.failover_direct": False,
    "network.proxy.allow_bypass": False,
    # Names.
    "network.dns.disabled": True,
    "network.dns.disablePrefetch": True,
    "network.trr.mode": _TRR_OFF_BY_CHOICE,
    # UDP: WebRTC and QUIC.
    "media.peerconnection.enabled": False,
    "network.http.http3.enable": False,
    # Nothing before somebody asked for it.
    "network.predictor.enabled": False,
    "network.prefetch-next": False,
    "network.http.speculative-parallel-limit": _OFF,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "browser.safebrowsing.downloads.remote.enabled": False,
    "browser.search.suggest.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "browser.aboutwelcome.enabled": False,
    "browser.startup.homepage_override.mstone": "ignore",
    "datareporting.policy.dataSubmissionEnabled": False,
    "toolkit.telemetry.reportingpolicy.firstRun": False,
}


def preferences(proxy: Address) -> str:
    """Return the text of ``user.js`` for a profile that uses `proxy` alone."""
    where = {"network.proxy.socks": proxy.host, "network.proxy.socks_port": proxy.port}
    return "".join(
        f"user_pref({json.dumps(name)}, {json.dumps(value)});\n"
        for name, value in {**_CLOSED, **where}.items()
    )


def write_profile(profile: Path, proxy: Address) -> None:
    """Write the preferences of a new profile into the folder `profile`."""
    (profile / "user.js").write_text(preferences(proxy), encoding="utf-8")


def arguments(profile: Path, page: str) -> list[str]:
    """Return what to start the browser with, so that it shows `page`."""
    return ["--profile", str(profile), "--new-instance", "--no-remote", page]
