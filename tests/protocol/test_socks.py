import struct
from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.paper import Side
from warren.addresses import Address
from warren.errors import EndReason, ProtocolError
from warren.protocol import front
from warren.protocol.choice import Choice
from warren.protocol.front import (
    BY_REASON,
    Authentication,
    Command,
    Credentials,
    Isolation,
    Login,
    WrongLogin,
)
from warren.protocol.messages import ANY_FAMILY, BeginFlags
from warren.protocol.socks import SocksRequest, accept

NAMES = st.from_regex(r"[a-z]{1,20}(\.[a-z]{1,20}){0,3}", fullmatch=True)
PORTS = st.integers(0, 0xFFFF)


def socks4(command: int = 1, port: int = 80, ip: str = "1.2.3.4", user: bytes = b"") -> bytes:
    return struct.pack("!BBH", 4, command, port) + IPv4Address(ip).packed + user + b"\0"


def login(user: bytes, password: bytes) -> bytes:
    return b"\x01%c%s%c%s" % (len(user), user, len(password), password)


def socks5_host(host: str) -> bytes:
    try:
        ip = ip_address(host)
    except ValueError:
        return b"\x03%c%s" % (len(host.encode()), host.encode())
    return (b"\x01" if ip.version == 4 else b"\x04") + ip.packed


def socks5(
    host: str = "example.com",
    port: int = 80,
    *,
    command: int = 1,
    methods: bytes = b"\x00",
    user: bytes | None = None,
    password: bytes = b"",
) -> bytes:
    words = b"\x05%c%s" % (len(methods), methods)
    if user is not None:
        words += login(user, password)
    return words + b"\x05%c\x00" % command + socks5_host(host) + port.to_bytes(2, "big")


def said(words: bytes) -> Side[SocksRequest]:
    side = Side(accept())
    side.receive(words)
    return side


def asked(words: bytes) -> SocksRequest:
    return said(words).result


CONVERSATIONS = st.one_of(
    st.builds(socks4, st.sampled_from([1, 2, 0xF0]), PORTS, user=st.just(b"me")),
    st.builds(lambda name, port: socks4(1, port, "0.0.0.7") + name.encode() + b"\0", NAMES, PORTS),
    st.builds(socks5, NAMES, PORTS, command=st.sampled_from([1, 2, 3, 0xF0])),
    st.builds(
        socks5,
        st.ip_addresses().map(str),
        PORTS,
        methods=st.just(b"\x00\x02"),
        user=st.binary(max_size=255),
        password=st.binary(max_size=255),
    ),
)


def test_socks4_names_an_ipv4_address() -> None:
    request = asked(socks4(1, 443, "93.184.216.34", b"me"))

    assert request.command is Command.CONNECT
    assert request.address == Address("93.184.216.34", 443)
    assert request.credentials == Credentials(Authentication.SOCKS4, (b"me",))


def test_socks4a_names_a_host_behind_the_user() -> None:
    request = asked(socks4(1, 443, "0.0.0.255", b"me") + b"Example.com.\0")

    assert request.address == Address("example.com", 443)


def test_the_address_of_all_zeros_is_no_socks4a() -> None:
    request = asked(socks4(1, 443, "0.0.0.0"))

    assert request.address == Address("0.0.0.0", 443)


@pytest.mark.parametrize("host", ["example.com", "1.2.3.4", "2001:db8::1"])
def test_socks5_names_a_host_or_an_address_of_either_family(host: str) -> None:
    side = said(socks5(host, 8080))

    assert side.sent == b"\x05\x00"
    assert side.result.address == Address(host, 8080)
    assert side.result.credentials == Credentials(Authentication.NONE)


def test_a_literal_spelt_as_a_name_is_an_address() -> None:
    name = b"\x05\x01\x00\x05\x01\x00\x03\x071.2.3.4\x00\x50"

    assert asked(name).address.ip == ip_address("1.2.3.4")


@pytest.mark.parametrize("methods", [b"\x00\x02", b"\x02\x00", b"\x01\x00\x02", b"\x02"])
def test_a_login_is_chosen_wherever_it_is_offered(methods: bytes) -> None:
    side = said(socks5(methods=methods, user=b"me", password=b"secret"))

    assert side.sent == b"\x05\x02\x01\x00"
    assert side.result.credentials == Credentials(Authentication.LEGACY, (b"me", b"secret"))


def test_a_login_that_was_not_asked_for_is_taken_all_the_same() -> None:  # D2, as Tor does
    side = said(b"\x05\x01\x00" + login(b"me", b"secret") + socks5()[3:])

    assert side.sent == b"\x05\x00\x01\x00"
    assert side.result.credentials == Credentials(Authentication.LEGACY, (b"me", b"secret"))
    assert side.result.address == Address("example.com", 80)


def test_an_empty_password_and_an_empty_user_are_fine() -> None:
    request = asked(socks5(methods=b"\x02", user=b"", password=b""))

    assert request.credentials.values == (b"", b"")


@pytest.mark.parametrize("methods", [b"", b"\x01", b"\x80\xff"])
def test_without_an_acceptable_method_the_client_is_told_so(methods: bytes) -> None:
    side = Side(accept())

    with pytest.raises(ProtocolError):
        side.receive(b"\x05%c%s" % (len(methods), methods))
    assert side.sent == b"\x05\xff"


@pytest.mark.parametrize(
    ("code", "command"),
    [
        (0x01, Command.CONNECT),
        (0x02, Command.BIND),
        (0x03, Command.ASSOCIATE),
        (0xF0, Command.RESOLVE),
        (0xF1, Command.RESOLVE_PTR),
    ],
)
def test_every_known_command_is_read_to_its_end(code: int, command: Command) -> None:
    request = asked(socks5("1.2.3.4", 0, command=code))

    assert request.command is command
    assert request.objection is None


def test_only_an_address_has_a_reverse_name() -> None:
    request = asked(socks5("example.com", 0, command=0xF1))

    assert request.objection is front.UNSUPPORTED_ADDRESS


@pytest.mark.parametrize(
    ("words", "reply"),
    [
        (socks5(command=9), b"\x05\x07\x00\x01\0\0\0\0\0\0"),
        (b"\x05\x01\x00\x05\x01\x00\x02", b"\x05\x08\x00\x01\0\0\0\0\0\0"),
        (socks5("no name"), b"\x05\x01\x00\x01\0\0\0\0\0\0"),
        (socks5("bücher.example"), b"\x05\x01\x00\x01\0\0\0\0\0\0"),
        (socks5("127.1"), b"\x05\x01\x00\x01\0\0\0\0\0\0"),
        (socks4(3), b"\x00\x5b\0\0\0\0\0\0"),
        (socks4(1, 80, "0.0.0.1") + b"no name\0", b"\x00\x5b\0\0\0\0\0\0"),
    ],
)
def test_what_cannot_be_asked_gets_its_code_before_the_end(words: bytes, reply: bytes) -> None:
    side = Side(accept())

    with pytest.raises(ProtocolError):
        side.receive(words)
    assert side.sent.endswith(reply)


@pytest.mark.parametrize(
    "words",
    [
        b"\x16\x03\x01\x02\x00",
        b"\x00",
        b"\x05\x01\x00\x04\x01\x00\x01",
        b"\x05\x01\x00\x05\x01\x01\x01",
        b"\x05\x01\x02\x05\x01",
        b"\x04\x01\x00\x50\x01\x02\x03\x04" + b"u" * 300,
    ],
)
def test_malformed_words_end_the_conversation(words: bytes) -> None:  # FE-2, FE-3
    with pytest.raises(ProtocolError):
        said(words)


@given(CONVERSATIONS)
def test_byte_by_byte_is_the_same_as_all_at_once(words: bytes) -> None:
    slow = Side(accept())

    for index in range(len(words)):
        slow.receive(words[index : index + 1])

    whole = said(words)
    assert (slow.result, slow.sent) == (whole.result, whole.sent)


@given(CONVERSATIONS, st.binary())
def test_early_bytes_are_left_for_the_stream(words: bytes, early: bytes) -> None:
    side = said(words + early)

    assert side.is_done
    assert side.buffer == early


@given(
    st.one_of(st.binary(), CONVERSATIONS.flatmap(lambda w: st.binary().map(lambda b: w[:9] + b)))
)
def test_garbage_raises_protocol_error_and_nothing_else(words: bytes) -> None:
    try:
        side = said(words)
    except ProtocolError:
        return

    assert not side.is_done or side.result.version in (4, 5)


@given(CONVERSATIONS.map(asked), st.sampled_from(list(EndReason)))
def test_every_reason_has_a_reply_in_every_version(
    request: SocksRequest, reason: EndReason
) -> None:
    reply = request.refused(BY_REASON[reason])

    if request.version == 4:
        assert reply == b"\x00\x5b" + bytes(6)
    else:
        assert reply == b"\x05%c\x00\x01" % BY_REASON[reason].socks5 + bytes(6)


@pytest.mark.parametrize(
    ("bound", "reply"),
    [
        ("1.2.3.4", b"\x05\x00\x00\x01\x01\x02\x03\x04\x00\x50"),
        ("::1", b"\x05\x00\x00\x04" + bytes(15) + b"\x01\x00\x50"),
        ("a.example", b"\x05\x00\x00\x03\x09a.example\x00\x50"),
    ],
)
def test_the_answer_to_a_resolve_goes_into_the_reply(bound: str, reply: bytes) -> None:
    assert asked(socks5()).granted(Address(bound, 80)) == reply


def test_socks4_has_room_for_ipv4_only() -> None:
    request = asked(socks4())

    assert request.granted() == b"\x00\x5a\0\0\0\0\0\0"
    assert request.granted(Address("1.2.3.4", 80)) == b"\x00\x5a\x00\x50\x01\x02\x03\x04"
    assert request.granted(Address("::1", 80)) == b"\x00\x5a\x00\x50\0\0\0\0"


@pytest.mark.parametrize(
    ("found", "reply5", "reply4"),
    [
        (
            ["2a00::1", "5.5.5.5"],
            b"\x05\x00\x00\x01\x05\x05\x05\x05",
            b"\x00\x5a\0\0\x05\x05\x05\x05",
        ),
        (["2a00::1"], b"\x05\x00\x00\x04\x2a\x00", None),
        (["a.example"], b"\x05\x00\x00\x03\x09a.example\0\0", None),
    ],
)
def test_of_several_answers_ipv4_is_told_first(
    found: list[str], reply5: bytes, reply4: bytes | None
) -> None:
    addresses = [Address(host, 0) for host in found]

    five, four = (asked(each).resolved(addresses) for each in (socks5(), socks4()))

    assert five is not None
    assert five.startswith(reply5)
    assert four == reply4


def test_socks4_reaches_names_over_ipv4_only() -> None:  # D3
    assert asked(socks4()).flags is BeginFlags.NO_IPV6
    assert asked(socks5()).flags is ANY_FAMILY


def credentials_of(user: bytes, password: bytes) -> Credentials:
    return asked(socks5(methods=b"\x02", user=user, password=password)).credentials


def test_the_extended_format_isolates_by_its_password() -> None:
    credentials = credentials_of(b"<torS0X>0", b"tab 7")

    assert credentials == Credentials(Authentication.EXTENDED, (b"tab 7",))
    assert credentials != credentials_of(b"<torS0X>0", b"tab 8")


@pytest.mark.parametrize("user", [b"<torS0X>", b"<torS0X>0x", b"<torS0X>1id", b"<torS0X>9"])
def test_an_unknown_extended_format_is_refused_at_the_request(user: bytes) -> None:
    request = asked(socks5(methods=b"\x02", user=user))

    assert request.objection is front.UNKNOWN_FORMAT
    assert request.refused(front.UNKNOWN_FORMAT)[1] == 2


@pytest.mark.parametrize("user", [b"me", b"me+session=7", b"me+SESSION=7", b"a+b", b"c2Vj+cmV0=="])
def test_a_user_without_unknown_parameters_is_fine(user: bytes) -> None:
    assert asked(socks5(methods=b"\x02", user=user)).objection is None


def test_what_the_user_asks_for_comes_with_the_credentials() -> None:
    wishes = b"me+country=de+hops=2"

    requests = asked(socks5(methods=b"\x02", user=wishes)), asked(socks4(user=wishes))

    assert all(each.credentials.choice == Choice("de", hops=2) for each in requests)
    assert not any(each.objection for each in requests)


@pytest.mark.parametrize("user", [b"me+country=germany", b"me+session=7+hops=9", b"+colour=blue"])
def test_a_bad_parameter_is_refused_at_the_request(user: bytes) -> None:
    for request in (asked(socks5(methods=b"\x02", user=user)), asked(socks4(user=user))):
        assert request.objection is not None
        assert request.objection.socks5 == 2
        assert request.objection.status == 403


# ---- passwords

LOGIN = Login.of("me", "secret")


def turned_away(words: bytes) -> bytes:
    """Return what a listener with a password says to `words`, with which nobody gets in."""
    side = Side(accept(LOGIN))
    with pytest.raises(WrongLogin):
        side.receive(words)
    return side.sent


@pytest.mark.parametrize("user", [b"me", b"me+work", b"me+country=de", b"me+colour=blue"])
def test_the_right_password_lets_in_whatever_stands_behind_the_user(user: bytes) -> None:
    side = Side(accept(LOGIN))

    side.receive(socks5(methods=b"\x00\x02", user=user, password=b"secret"))

    assert side.sent == b"\x05\x02\x01\x00"
    assert side.result.credentials.values == (user, b"secret")


@pytest.mark.parametrize(
    ("user", "password"),
    [
        (b"me", b"Secret"),
        (b"me", b""),
        (b"", b"secret"),
        (b"you", b"secret"),
        (b"mes", b"ecret"),
        (b"me\0", b"secret"),
        (b"<torS0X>0", b"secret"),
        (b"+me", b"secret"),
    ],
)
def test_a_wrong_login_is_told_in_its_own_words(user: bytes, password: bytes) -> None:
    words = b"\x05\x01\x02" + login(user, password)

    assert turned_away(words) == b"\x05\x02\x01\x01"  # RFC 1929 §2: any status but 0


@pytest.mark.parametrize(
    ("words", "reply"),
    [(socks5(), b"\x05\xff"), (socks4(user=b"me"), b"\x00\x5b\0\0\0\0\0\0")],
)
def test_who_offers_no_password_does_not_get_in(words: bytes, reply: bytes) -> None:
    assert turned_away(words) == reply


def test_a_login_is_not_readable_in_a_log() -> None:
    assert "secret" not in repr(LOGIN)
    assert b"secret" not in LOGIN.digest


# ---- isolation

TOKENS = st.sampled_from([b"", b"a", b"b", b"ab"])
LOGINS = st.one_of(
    st.tuples(st.just("socks4"), TOKENS, st.just(b"")),
    st.tuples(st.just("none"), st.just(b""), st.just(b"")),
    st.tuples(st.just("legacy"), TOKENS, TOKENS),
    st.tuples(st.just("extended"), st.just(b""), TOKENS),
)
Way = tuple[str, bytes, bytes]


def isolation_of(listener: str, way: Way) -> Isolation:
    kind, user, password = way
    if kind == "socks4":
        credentials = asked(socks4(user=user)).credentials
    elif kind == "none":
        credentials = asked(socks5()).credentials
    else:
        credentials = credentials_of(b"<torS0X>0" if kind == "extended" else user, password)
    return Isolation(listener, credentials, (), credentials.choice)


@given(st.sampled_from("xy"), LOGINS, st.sampled_from("xy"), LOGINS)
def test_isolation_is_equal_if_and_only_if_the_logins_are(  # T50
    one_port: str, one: Way, other_port: str, other: Way
) -> None:
    left, right = isolation_of(one_port, one), isolation_of(other_port, other)

    assert (left == right) == ((one_port, one) == (other_port, other))
    assert left != right or hash(left) == hash(right)


def test_credentials_stay_out_of_logs() -> None:
    assert "secret" not in repr(asked(socks5(methods=b"\x02", user=b"me", password=b"secret")))
