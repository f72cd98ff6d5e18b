"""Chromium and its kin: the switches and preferences that leave the proxy as the only way out.

Chromium leaves names to a SOCKS5 proxy by itself, but a proxy alone is not enough: it goes around
it to this machine's own addresses, and WebRTC sends UDP directly. Each of these is closed here:

- targets on this machine: ``<-loopback>`` takes the built-in exception away,
- WebRTC: only what goes through the proxy, so no address of this machine becomes a candidate,
- QUIC: off, as it is UDP,
- names: whatever would be looked up here for another reason does not exist,
- the local network: no search for screens to cast to.
"""

import json
from pathlib import Path

from warren.addresses import Address

_WEBRTC = "disable_non_proxied_udp"

_PREFERENCES = {
    "webrtc": {"ip_handling_policy": _WEBRTC},
    "net": {"network_prediction_options": 2},  # never: no connections before they are needed
    "media_router": {"enable_media_router": False},
    "search": {"suggest_enabled": False},
    "safebrowsing": {"enabled": False},  # would tell a third party what is visited
    "signin": {"allowed": False},
    "credentials_enable_service": False,
}


def write_profile(profile: Path) -> None:
    """Write the preferences of a new profile into the folder `profile`."""
    folder = profile / "Default"
    folder.mkdir()
    (folder / "Preferences").write_text(json.dumps(_PREFERENCES), encoding="utf-8")


def arguments(profile: Path, proxy: Address, page: str) -> list[str]:
    """Return what to start the browser with, so that it shows `page` through `proxy`."""
    return [
        f"--user-data-dir={profile}",
        f"--proxy-server=socks5://{proxy}",
        "--proxy-bypass-list=<-loopback>",
        f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {proxy.host}",
        f"--webrtc-ip-handling-policy={_WEBRTC}",
        "--disable-quic",
        "--dns-prefetch-disable",
        "--disable-features=MediaRouter,DialMediaRouteProvider,OptimizationHints",
        "--disable-default-apps",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-domain-reliability",
        "--disable-breakpad",
        "--disable-sync",
        "--no-pings",
        "--no-first-run",
        "--no-default-browser-check",
        page,
    ]
