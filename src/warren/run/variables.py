"""The variables that tell programs of a proxy."""

from collections.abc import Mapping

from warren.addresses import Address


def with_proxy(environment: Mapping[str, str], proxy: Address) -> dict[str, str]:
    """Return `environment` with all traffic sent to `proxy`, and no exceptions from that.

    Programs read them in lower case, upper case or both.
    """
    values = {
        "all_proxy": f"socks5h://{proxy}",
        "http_proxy": f"http://{proxy}",
        "https_proxy": f"http://{proxy}",
        "no_proxy": "",
    }
    upper = {name.upper(): value for name, value in values.items()}
    return {**environment, **values, **upper}
