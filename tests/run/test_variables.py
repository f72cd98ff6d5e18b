from warren.addresses import Address
from warren.run.variables import with_proxy


def test_every_spelling_leads_to_the_proxy_and_nothing_is_excepted() -> None:
    before = {"PATH": "/bin", "no_proxy": "example.com", "HTTP_PROXY": "http://elsewhere:1"}

    after = with_proxy(before, Address("127.0.0.1", 1080))

    assert after == {
        "PATH": "/bin",
        **dict.fromkeys(("all_proxy", "ALL_PROXY"), "socks5h://127.0.0.1:1080"),
        **dict.fromkeys(
            ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:1080"
        ),
        "no_proxy": "",
        "NO_PROXY": "",
    }
