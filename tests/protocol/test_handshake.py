"""How links open and circuits gain a hop: on paper, then with every lie a peer may tell."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import reference_noise
from tests.support.paper import FixedKeys, Side, converse
from warren.addresses import Address
from warren.errors import ProtocolError
from warren.identity import Hop, Identity, KeyPair, PeerId, Suite, SystemKeys
from warren.protocol.handshake import (
    CIRCUIT_MESSAGE_1_LENGTH,
    CIRCUIT_MESSAGE_2_LENGTH,
    CircuitInitiator,
    HopSecrets,
    LinkCredentials,
    LinkSecrets,
    accept_link,
    answer_circuit,
    certify_link_key,
    initiate_link,
)

NOW = 1_700_000_000.0
LATER = int(NOW) + 3600

NETWORK = sha256(b"network").digest()
OTHER_NETWORK = sha256(b"other network").digest()


def pair(name: bytes) -> KeyPair:
    return KeyPair.from_private(sha256(name).digest())


RELAY = Identity(sha256(b"relay").digest())
RELAY_LINK_KEY, RELAY_ONION_KEY = pair(b"relay link"), pair(b"relay onion")
CALLER = Identity(sha256(b"caller").digest())
CALLER_LINK_KEY = pair(b"caller link")
STRANGER = Identity(sha256(b"stranger").digest())

AES_HOP = Hop(
    RELAY.peer_id,
    Address("192.0.2.1", 9001),
    RELAY_LINK_KEY.public,
    RELAY_ONION_KEY.public,
    (Suite.AESGCM, Suite.CHACHAPOLY),
)
CHACHA_HOP = replace(AES_HOP, suites=(Suite.CHACHAPOLY, Suite.AESGCM))
CREDENTIALS = certify_link_key(CALLER, NETWORK, CALLER_LINK_KEY, LATER)

both_hops = pytest.mark.parametrize("hop", [AES_HOP, CHACHA_HOP], ids=["AES-GCM", "ChaCha20"])
both_callers = pytest.mark.parametrize("credentials", [None, CREDENTIALS], ids=["NK", "IK"])
both_suites = pytest.mark.parametrize("suite", list(Suite), ids=lambda suite: suite.name)


def call(
    credentials: LinkCredentials | None = None, hop: Hop = AES_HOP, network_id: bytes = NETWORK
) -> Side[LinkSecrets]:
    return Side(initiate_link(network_id, hop, SystemKeys(), credentials))


def listen(
    link_keys: Sequence[KeyPair] = (RELAY_LINK_KEY,),
    peer_id: PeerId = RELAY.peer_id,
    network_id: bytes = NETWORK,
    now: float = NOW,
) -> Side[LinkSecrets]:
    return Side(accept_link(network_id, peer_id, link_keys, SystemKeys(), now))


def flip(message: bytes, bit: int) -> bytes:
    changed = bytearray(message)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def assert_refused(responder: Side[LinkSecrets], message: bytes) -> None:
    """Hold that `message` is an error and gets no answer (protocol §2, silence)."""
    with pytest.raises(ProtocolError):
        responder.receive(message)
    assert responder.sent == b""


# Links


@both_hops
def test_a_client_opens_a_link_and_stays_anonymous(hop: Hop) -> None:
    client, relay = converse(
        initiate_link(NETWORK, hop, SystemKeys(), None),
        accept_link(NETWORK, RELAY.peer_id, [RELAY_LINK_KEY], SystemKeys(), NOW),
    )

    assert (client.peer_id, relay.peer_id) == (RELAY.peer_id, None)
    assert client.send_key == relay.receive_key
    assert client.receive_key == relay.send_key
    assert client.send_key != client.receive_key
    assert client.handshake_hash == relay.handshake_hash


@both_hops
def test_a_relay_opens_a_link_as_itself(hop: Hop) -> None:
    caller, relay = converse(
        initiate_link(NETWORK, hop, SystemKeys(), CREDENTIALS),
        accept_link(NETWORK, RELAY.peer_id, [RELAY_LINK_KEY], SystemKeys(), NOW),
    )

    assert (caller.peer_id, relay.peer_id) == (RELAY.peer_id, CALLER.peer_id)
    assert (caller.send_key, caller.receive_key) == (relay.receive_key, relay.send_key)
    assert caller.handshake_hash == relay.handshake_hash


@both_callers
@both_hops
def test_the_initiator_takes_the_responders_first_suite(
    hop: Hop, credentials: LinkCredentials | None
) -> None:
    caller, relay = call(credentials, hop), listen()

    caller.receive(relay.receive(caller.sent))

    assert caller.result.suite is relay.result.suite is hop.suites[0]


@pytest.mark.parametrize(
    ("credentials", "hop", "head"),
    [
        (None, AES_HOP, "11 04e0"),
        (None, CHACHA_HOP, "12 04e0"),
        (CREDENTIALS, AES_HOP, "21 0578"),
        (CREDENTIALS, CHACHA_HOP, "22 0578"),
    ],
)
def test_the_first_byte_names_pattern_and_suite(
    credentials: LinkCredentials | None, hop: Hop, head: str
) -> None:
    sent = call(credentials, hop).sent

    assert sent[:3] == bytes.fromhex(head)
    assert len(sent) == 3 + int.from_bytes(sent[1:3], "big")


@both_hops
def test_a_relays_link_is_byte_for_byte_that_of_the_reference(hop: Hop) -> None:  # T55
    keys = FixedKeys(b"link")
    caller = Side(initiate_link(NETWORK, hop, keys, CREDENTIALS))
    relay = Side(accept_link(NETWORK, RELAY.peer_id, [RELAY_LINK_KEY], keys, NOW))
    caller.receive(relay.receive(caller.sent))

    expiry = LATER.to_bytes(8, "big")
    signature = CALLER.sign(b"warren link key 1" + NETWORK + CALLER_LINK_KEY.public + expiry)
    theirs = reference_noise.run_ikhfs(
        "AESGCM" if hop is AES_HOP else "ChaChaPoly",
        b"warren link 1" + NETWORK + RELAY.peer_id,
        initiator_static=CALLER_LINK_KEY.private,
        responder_static=RELAY_LINK_KEY.private,
        initiator_ephemeral=keys.private_key(0),
        responder_ephemeral=keys.private_key(1),
        kem_seed=keys.kem_seed,
        ciphertext=keys.ciphertext,
        payload_1=CALLER.peer_id + expiry + signature,
    )

    assert caller.sent[3:] == theirs.message_1
    assert relay.sent == (1152).to_bytes(2, "big") + theirs.message_2
    assert caller.result.send_key == theirs.initiator_key
    assert relay.result.send_key == theirs.responder_key
    assert caller.result.handshake_hash == theirs.handshake_hash


@both_callers
def test_a_link_opens_byte_by_byte(credentials: LinkCredentials | None) -> None:
    caller, relay = call(credentials), listen()

    answer = b"".join(relay.receive(bytes((byte,))) for byte in caller.sent)
    for byte in answer:
        caller.receive(bytes((byte,)))

    assert caller.result.send_key == relay.result.receive_key


def test_what_follows_the_handshake_is_left_for_the_records() -> None:
    caller, relay = call(), listen()

    answer = relay.receive(caller.sent + b"record")
    caller.receive(answer + b"another")

    assert relay.buffer == b"record"
    assert caller.buffer == b"another"
    assert caller.result.send_key == relay.result.receive_key


@both_callers
def test_the_previous_link_key_is_accepted(credentials: LinkCredentials | None) -> None:
    caller, relay = call(credentials), listen([pair(b"new link key"), RELAY_LINK_KEY])

    caller.receive(relay.receive(caller.sent))

    assert caller.result.send_key == relay.result.receive_key


@both_callers
def test_a_link_key_before_the_previous_one_is_refused(
    credentials: LinkCredentials | None,
) -> None:
    relay = listen([pair(b"newest link key"), pair(b"new link key")])

    assert_refused(relay, call(credentials).sent)


@both_callers
def test_another_network_is_refused(credentials: LinkCredentials | None) -> None:
    assert_refused(listen(network_id=OTHER_NETWORK), call(credentials).sent)


@both_callers
def test_a_message_for_another_peer_is_refused(credentials: LinkCredentials | None) -> None:
    assert_refused(listen(peer_id=STRANGER.peer_id), call(credentials).sent)


def test_any_other_first_byte_is_refused_at_once() -> None:
    for first in set(range(256)) - {0x11, 0x12, 0x21, 0x22}:
        assert_refused(listen(), bytes((first,)))


@pytest.mark.parametrize("first", [0x11, 0x12, 0x21, 0x22], ids=hex)
@given(length=st.integers(0, 0xFFFF).filter(lambda length: length not in (1248, 1400)))
def test_any_other_length_is_refused_before_more_is_read(first: int, length: int) -> None:  # LNK-1
    assert_refused(listen(), bytes((first,)) + length.to_bytes(2, "big"))


def test_the_length_of_the_other_pattern_is_refused() -> None:  # LNK-1
    assert_refused(listen(), b"\x11" + (1400).to_bytes(2, "big"))
    assert_refused(listen(), b"\x21" + (1248).to_bytes(2, "big"))


@given(length=st.integers(0, 0xFFFF).filter(lambda length: length != 1152))
def test_an_answer_of_any_other_length_is_refused_before_more_is_read(length: int) -> None:
    caller = call()

    with pytest.raises(ProtocolError, match="expected 1152"):
        caller.receive(length.to_bytes(2, "big"))


@pytest.mark.parametrize(("written", "instead"), [(0x11, 0x12), (0x12, 0x11)], ids=hex)
def test_a_changed_suite_is_refused(written: int, instead: int) -> None:  # T55
    sent = call(hop=AES_HOP if written == 0x11 else CHACHA_HOP).sent

    assert_refused(listen(), bytes((instead,)) + sent[1:])


def test_an_ik_message_cannot_be_passed_off_as_anonymous() -> None:  # T55
    sent = call(CREDENTIALS).sent

    assert_refused(listen(), b"\x11" + (1248).to_bytes(2, "big") + sent[3:1251])


@both_callers
def test_a_flipped_bit_anywhere_in_message_1_gets_no_answer(  # T54
    credentials: LinkCredentials | None,
) -> None:
    sent = call(credentials).sent

    for position in range(3, len(sent), 5):
        assert_refused(listen(), flip(sent, 8 * position + position % 8))


@both_callers
@given(place=st.floats(0, 1, exclude_max=True))
def test_a_flipped_bit_anywhere_in_the_answer_is_refused(  # T54
    credentials: LinkCredentials | None, place: float
) -> None:
    caller, relay = call(credentials), listen()
    answer = relay.receive(caller.sent)

    with pytest.raises(ProtocolError):
        caller.receive(flip(answer, int(place * 8 * len(answer))))


@given(garbage=st.binary(min_size=3, max_size=1500))
def test_garbage_is_refused(garbage: bytes) -> None:
    if garbage[:1] in (b"\x11", b"\x12", b"\x21", b"\x22"):
        garbage = garbage[:1] + b"\0" + garbage[1:]

    assert_refused(listen(), garbage)


@pytest.mark.parametrize("head", ["11 04e0", "12 04e0", "21 0578", "22 0578"])
@given(garbage=st.binary(min_size=1400, max_size=1400))
def test_garbage_with_a_good_head_is_refused(head: str, garbage: bytes) -> None:
    assert_refused(listen(), bytes.fromhex(head) + garbage)


# Who is at the other end


def test_an_expired_certificate_is_refused() -> None:  # LNK-2
    sent = call(CREDENTIALS).sent

    assert_refused(listen(now=LATER), sent)
    assert listen(now=LATER - 0.5).receive(sent) != b""


def test_a_certificate_for_another_key_is_refused() -> None:  # LNK-2
    stolen = replace(CREDENTIALS, link_key=pair(b"the thief's link key"))

    assert_refused(listen(), call(stolen).sent)


def test_a_certificate_of_another_network_is_refused() -> None:  # LNK-2
    foreign = certify_link_key(CALLER, OTHER_NETWORK, CALLER_LINK_KEY, LATER)

    assert_refused(listen(), call(foreign).sent)


def test_a_certificate_of_another_peer_is_refused() -> None:  # LNK-2
    posing = replace(CREDENTIALS, peer_id=STRANGER.peer_id)

    assert_refused(listen(), call(posing).sent)


def test_a_certificate_with_a_later_expiry_is_refused() -> None:  # LNK-2
    prolonged = replace(CREDENTIALS, expiry=LATER + 1)

    assert_refused(listen(), call(prolonged).sent)


def test_a_link_from_our_own_id_is_refused() -> None:  # LNK-2
    own = certify_link_key(RELAY, NETWORK, RELAY_LINK_KEY, LATER)

    assert_refused(listen(), call(own).sent)


SMALL_ORDER_IDENTITIES = [bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"]


@pytest.mark.parametrize("point", SMALL_ORDER_IDENTITIES, ids=bytes.hex)
def test_a_small_order_identity_proves_nothing(point: bytes) -> None:  # T53, HS-3
    forged = replace(CREDENTIALS, peer_id=PeerId(point), certificate=point + bytes(32))

    assert_refused(listen(), call(forged).sent)


def test_a_man_in_the_middle_cannot_answer_with_his_own_key() -> None:  # T06
    middle_key = pair(b"the middle's link key")
    caller = call(CREDENTIALS)

    assert_refused(listen([middle_key]), caller.sent)
    own_call = call(hop=replace(AES_HOP, link_key=middle_key.public))
    answer = listen([middle_key]).receive(own_call.sent)

    with pytest.raises(ProtocolError):
        caller.receive(answer)
    assert not caller.is_done


def test_a_message_reflected_to_its_sender_is_refused() -> None:  # T06
    sent = call(CREDENTIALS).sent

    assert_refused(listen([CALLER_LINK_KEY], peer_id=CALLER.peer_id), sent)


def test_a_replayed_message_1_gives_keys_that_the_replayer_does_not_have() -> None:  # T06
    caller, relay, replayed = call(CREDENTIALS), listen(), listen()
    caller.receive(relay.receive(caller.sent))

    replayed.receive(caller.sent)

    assert replayed.result.peer_id == CALLER.peer_id  # claimed: its first record proves it
    keys = {caller.result.send_key, caller.result.receive_key}
    assert not keys & {replayed.result.send_key, replayed.result.receive_key}


def test_an_answer_to_another_message_is_refused() -> None:  # T06
    answer = listen().receive(call().sent)

    with pytest.raises(ProtocolError):
        call().receive(answer)


@both_callers
def test_a_bridge_is_silent_to_a_repeated_message_1(credentials: LinkCredentials | None) -> None:
    seen: set[bytes] = set()

    def is_repeat(ephemeral: bytes) -> bool:
        known = ephemeral in seen
        seen.add(ephemeral)
        return known

    def bridge() -> Side[LinkSecrets]:
        keys = SystemKeys()
        return Side(
            accept_link(NETWORK, RELAY.peer_id, [RELAY_LINK_KEY], keys, NOW, is_repeat=is_repeat)
        )

    sent = call(credentials).sent
    bridge().receive(sent)

    assert_refused(bridge(), sent)
    assert seen == {sent[3:35]}


def test_a_bridge_remembers_only_what_opened() -> None:
    def is_repeat(ephemeral: bytes) -> bool:
        raise AssertionError("asked about a message that did not open")

    keys = SystemKeys()
    relay = Side(
        accept_link(NETWORK, RELAY.peer_id, [RELAY_LINK_KEY], keys, NOW, is_repeat=is_repeat)
    )

    assert_refused(relay, flip(call().sent, 8 * 1000))


def test_secrets_show_no_keys() -> None:
    caller, relay = call(), listen()
    caller.receive(relay.receive(caller.sent))

    shown = repr(caller.result) + repr(relay.result)

    assert repr(caller.result.send_key) not in shown
    assert repr(caller.result.receive_key) not in shown
    assert CALLER_LINK_KEY.private.hex() not in repr(CREDENTIALS)


# Circuits


def begin(
    suite: Suite = Suite.AESGCM,
    depth: int = 1,
    peer_id: PeerId = RELAY.peer_id,
    network_id: bytes = NETWORK,
) -> CircuitInitiator:
    onion_key = RELAY_ONION_KEY.public
    return CircuitInitiator(network_id, peer_id, onion_key, depth, suite, SystemKeys())


def answer(
    message: bytes,
    *,
    suite: Suite = Suite.AESGCM,
    depth: int = 1,
    onion_keys: Sequence[KeyPair] = (RELAY_ONION_KEY,),
) -> tuple[bytes, HopSecrets]:
    return answer_circuit(NETWORK, RELAY.peer_id, onion_keys, depth, suite, message, SystemKeys())


@both_suites
@pytest.mark.parametrize("depth", [0, 1, 2, 255])
def test_origin_and_hop_share_their_secrets(suite: Suite, depth: int) -> None:
    origin = begin(suite, depth)

    message, theirs = answer(origin.message, suite=suite, depth=depth)
    ours = origin.finish(message)

    assert ours == theirs
    assert ours.suite is suite
    assert (len(origin.message), len(message)) == (1248, 1152)
    secrets = {ours.forward_key, ours.backward_key, ours.resume_secret, ours.handshake_hash}
    assert [len(secret) for secret in secrets] == [32, 32, 32, 32]


@both_suites
def test_a_hop_is_byte_for_byte_that_of_the_reference(suite: Suite) -> None:  # T55
    keys = FixedKeys(b"circuit")
    origin = CircuitInitiator(NETWORK, RELAY.peer_id, RELAY_ONION_KEY.public, 2, suite, keys)
    message, ours = answer_circuit(
        NETWORK, RELAY.peer_id, [RELAY_ONION_KEY], 2, suite, origin.message, keys
    )

    theirs = reference_noise.run_nkhfs(
        "AESGCM" if suite is Suite.AESGCM else "ChaChaPoly",
        b"warren circuit 1" + NETWORK + RELAY.peer_id + b"\x02",
        responder_static=RELAY_ONION_KEY.private,
        initiator_ephemeral=keys.private_key(0),
        responder_ephemeral=keys.private_key(1),
        kem_seed=keys.kem_seed,
        ciphertext=keys.ciphertext,
    )

    assert (origin.message, message) == (theirs.message_1, theirs.message_2)
    assert ours == HopSecrets(
        suite,
        forward_key=theirs.initiator_key,
        backward_key=theirs.responder_key,
        resume_secret=theirs.extra_secret,
        handshake_hash=theirs.handshake_hash,
    )


def test_the_previous_onion_key_is_accepted() -> None:  # T54
    origin = begin()

    message, theirs = answer(origin.message, onion_keys=[pair(b"new onion"), RELAY_ONION_KEY])

    assert origin.finish(message) == theirs


@pytest.mark.parametrize("others", [0, 1, 2])
def test_a_wrong_onion_key_is_refused(others: int) -> None:  # T54
    onion_keys = [pair(b"other onion %d" % number) for number in range(others)]

    with pytest.raises(ProtocolError, match="none of our keys"):
        answer(begin().message, onion_keys=onion_keys)


def test_a_link_key_is_no_onion_key() -> None:
    with pytest.raises(ProtocolError):
        answer(begin().message, onion_keys=[RELAY_LINK_KEY])


def test_a_circuit_message_for_another_peer_is_refused() -> None:  # T54
    with pytest.raises(ProtocolError):
        answer(begin(peer_id=STRANGER.peer_id).message)


def test_a_circuit_message_of_another_network_is_refused() -> None:  # T54
    with pytest.raises(ProtocolError):
        answer(begin(network_id=OTHER_NETWORK).message)


@given(depth=st.integers(0, 255), other=st.integers(0, 255))
def test_a_message_is_good_at_its_own_depth_only(depth: int, other: int) -> None:  # T54
    message = begin(depth=depth).message

    if depth == other:
        assert answer(message, depth=other)
        return
    with pytest.raises(ProtocolError):
        answer(message, depth=other)


@both_suites
def test_a_circuit_message_of_the_other_suite_is_refused(suite: Suite) -> None:  # T55
    (other,) = set(Suite) - {suite}

    with pytest.raises(ProtocolError):
        answer(begin(suite).message, suite=other)


def test_a_links_message_makes_no_hop() -> None:
    hop = replace(AES_HOP, link_key=RELAY_ONION_KEY.public)

    with pytest.raises(ProtocolError):
        answer(call(hop=hop).sent[3:])


@pytest.mark.parametrize("length", [0, 1, 31, 32, 1231, 1247, 1249, 4080])
def test_a_circuit_message_1_of_another_length_is_refused(length: int) -> None:  # T54
    message = begin().message.ljust(4080, b"\0")[:length]

    with pytest.raises(ProtocolError, match=f"expected {CIRCUIT_MESSAGE_1_LENGTH}"):
        answer(message)


@pytest.mark.parametrize("length", [0, 1, 31, 32, 1135, 1151, 1153, 4080])
def test_a_circuit_message_2_of_another_length_is_refused(length: int) -> None:  # T54
    origin = begin()
    message, _ = answer(origin.message)

    with pytest.raises(ProtocolError, match=f"expected {CIRCUIT_MESSAGE_2_LENGTH}"):
        origin.finish(message.ljust(4080, b"\0")[:length])


@given(place=st.floats(0, 1, exclude_max=True))
def test_a_flipped_bit_in_a_circuit_message_1_is_refused(place: float) -> None:  # T54
    message = begin().message

    with pytest.raises(ProtocolError):
        answer(flip(message, int(place * 8 * len(message))))


@given(place=st.floats(0, 1, exclude_max=True))
def test_a_flipped_bit_in_a_circuit_message_2_is_refused(place: float) -> None:  # T54
    origin = begin()
    message, _ = answer(origin.message)

    with pytest.raises(ProtocolError):
        origin.finish(flip(message, int(place * 8 * len(message))))


@given(garbage=st.binary(min_size=1152, max_size=1152))
def test_a_garbage_answer_is_refused(garbage: bytes) -> None:
    with pytest.raises(ProtocolError):
        begin().finish(garbage)


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31)], ids=bytes.hex)
def test_a_low_order_onion_key_makes_no_circuit(point: bytes) -> None:  # T53
    with pytest.raises(ProtocolError, match="no shared secret"):
        CircuitInitiator(NETWORK, RELAY.peer_id, point, 0, Suite.AESGCM, SystemKeys())


def test_an_onion_key_in_a_spelling_not_its_own_makes_no_circuit() -> None:  # T53
    key = bytearray(RELAY_ONION_KEY.public)
    key[31] |= 0x80  # X25519 ignores this bit, the handshake does not
    origin = CircuitInitiator(NETWORK, RELAY.peer_id, bytes(key), 1, Suite.AESGCM, SystemKeys())

    with pytest.raises(ProtocolError):
        answer(origin.message)


def test_the_answer_of_another_handshake_is_refused() -> None:
    message, _ = answer(begin().message)

    with pytest.raises(ProtocolError):
        begin().finish(message)


def test_hop_secrets_show_no_keys() -> None:
    _, secrets = answer(begin().message)

    for key in (secrets.forward_key, secrets.backward_key, secrets.resume_secret):
        assert repr(key) not in repr(secrets)
