import ipaddress

from warren.run.netlink import link_up, new_address, new_local_route

FOUR, SIX = ipaddress.ip_address("198.18.0.1"), ipaddress.ip_address("2001:2::1")


def test_the_loopback_device_is_brought_up() -> None:
    message = link_up()

    assert message.hex(" ", 4) == (
        "20000000 10000500 01000000 00000000"  # 32 bytes, RTM_NEWLINK, asked for an answer
        " 00000000 01000000 01000000 01000000"  # device 1, up
    )


def test_an_address_is_given_to_it() -> None:
    message = new_address(FOUR)

    assert message.hex(" ", 4) == (
        "30000000 14000506 01000000 00000000"  # RTM_NEWADDR, to be created
        " 02200000 01000000"  # AF_INET, 32 bits, device 1
        " 08000200 c6120001 08000100 c6120001 08000800 02000000"
    )


def test_everything_is_routed_to_ourselves() -> None:
    message = new_local_route(SIX)

    assert message.hex(" ", 4) == (
        "38000000 18000506 01000000 00000000"  # RTM_NEWROUTE, to be created
        " 0a000000 ff04fe02 00000000"  # AF_INET6, from and to anywhere, table local, type local
        " 08000400 01000000 14000700 20010002 00000000 00000000 00000001"
    )
