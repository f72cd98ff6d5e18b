"""What goes round the Noise messages: how two peers open a link, and a circuit gains a hop.

Every key agreement is one of ``protocol.noise``'s hybrid patterns. The prologue binds it to the
network, to the responder's peer id and, for a hop, to its depth, so that no message is good
anywhere else. A client opens a link anonymously (NK). A relay opens it as itself (IK): its
static key is its link key, and it shows its peer id's signature over that key.

A link on the wire (protocol §2)::

    -> first u8 | length u16 | message 1         first: 0x11  NK, AES-GCM
    <- length u16 | message 2                           0x12  NK, ChaCha20-Poly1305
                                                        0x21  IK, AES-GCM
    IK's message 1 carries                              0x22  IK, ChaCha20-Poly1305
    peer id 32 | expiry u64 | signature 64

Nothing here waits or counts seconds: the 10 s for a handshake, and the silence after a failed
one, are kept where the socket is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from warren.errors import ProtocolError, expect, refuse
from warren.identity import (
    SIGNATURE_LENGTH,
    Hop,
    Identity,
    KeyPair,
    KeySource,
    PeerId,
    Suite,
    verify,
)
from warren.protocol.exchange import Exchange, Receive, Send
from warren.protocol.noise import IKHFS, NKHFS, HandshakeState, Pattern

_CREDENTIALS_LENGTH = 32 + 8 + SIGNATURE_LENGTH

_FIRST_BYTES = {
    0x11: (NKHFS, Suite.AESGCM),
    0x12: (NKHFS, Suite.CHACHAPOLY),
    0x21: (IKHFS, Suite.AESGCM),
    0x22: (IKHFS, Suite.CHACHAPOLY),
}
_FIRST_BYTE_OF = {kind: first for first, kind in _FIRST_BYTES.items()}

_LINK_LENGTHS = {
    NKHFS: NKHFS.message_length(1),
    IKHFS: IKHFS.message_length(1, _CREDENTIALS_LENGTH),
}
_LINK_ANSWER_LENGTH = NKHFS.message_length(2)  # and IKhfs's: se sends nothing

#: Bytes of the two messages that add a hop to a circuit.
CIRCUIT_MESSAGE_1_LENGTH = NKHFS.message_length(1)
CIRCUIT_MESSAGE_2_LENGTH = NKHFS.message_length(2)


@dataclass(frozen=True)
class LinkSecrets:
    """Hold what a link's handshake gave this side; keys and hash have 32 bytes.

    ``peer_id`` is the other side's: None for an anonymous client. A responder may take an
    initiator's as proven only when its first record opens, since message 1 can be replayed
    (LNK-2).
    """

    suite: Suite
    send_key: bytes = field(repr=False)
    receive_key: bytes = field(repr=False)
    handshake_hash: bytes = field(repr=False)
    peer_id: PeerId | None


@dataclass(frozen=True)
class LinkCredentials:
    """Hold a relay's link key and its peer id's signature over it, good before ``expiry``.

    ``expiry`` is in unix seconds. Made by ``certify_link_key``.
    """

    peer_id: PeerId
    link_key: KeyPair
    expiry: int
    certificate: bytes

    def __post_init__(self) -> None:
        assert len(self.certificate) == SIGNATURE_LENGTH, "a certificate is an Ed25519 signature"

    def encode(self) -> bytes:
        """Return the 104 bytes that IK's message 1 carries."""
        return self.peer_id + self.expiry.to_bytes(8, "big") + self.certificate


def certify_link_key(
    identity: Identity, network_id: bytes, link_key: KeyPair, expiry: int
) -> LinkCredentials:
    """Sign `link_key` as `identity`'s in this network until `expiry`, in unix seconds."""
    certificate = identity.sign(_certified(network_id, link_key.public, expiry))
    return LinkCredentials(identity.peer_id, link_key, expiry, certificate)


def initiate_link(
    network_id: bytes, hop: Hop, keys: KeySource, credentials: LinkCredentials | None
) -> Exchange[LinkSecrets]:
    """Open a link to `hop`: as a relay with `credentials`, anonymously without.

    The suite is the first of the hop's, so that our taste marks nothing. Raises ProtocolError
    unless the answer comes from who has the hop's link key.
    """
    pattern = NKHFS if credentials is None else IKHFS
    suite = hop.suites[0]
    state = HandshakeState(
        pattern,
        suite,
        _link_prologue(network_id, hop.peer_id),
        keys,
        is_initiator=True,
        static=credentials.link_key if credentials else None,
        remote_static=hop.link_key,
    )
    message = state.write_message(credentials.encode() if credentials else b"")
    yield Send(bytes((_FIRST_BYTE_OF[pattern, suite],)) + _with_length(message))
    state.read_message((yield from _receive_message(_LINK_ANSWER_LENGTH)))
    split = state.split()
    return LinkSecrets(
        suite,
        send_key=split.initiator_key,
        receive_key=split.responder_key,
        handshake_hash=split.handshake_hash,
        peer_id=hop.peer_id,
    )


def accept_link(
    network_id: bytes,
    peer_id: PeerId,
    link_keys: Sequence[KeyPair],
    keys: KeySource,
    now: float,
    *,
    is_repeat: Callable[[bytes], bool] | None = None,
) -> Exchange[LinkSecrets]:
    """Answer a link's handshake as `peer_id`, whose link keys are the current and the previous.

    `now` is in unix seconds. Raises ProtocolError, and then has sent nothing, for anything but
    a message 1 meant for this peer in this network and, on IK, certified for somebody else
    (LNK-1, LNK-2). `is_repeat` is told the ephemeral key of every message 1 that opened, and
    says whether it was here before: a bridge stays silent to a recording too.
    """
    (first,) = yield Receive(1)
    pattern, suite = _FIRST_BYTES.get(first) or refuse(f"first byte {first:#04x} of a link")
    message = yield from _receive_message(_LINK_LENGTHS[pattern])
    prologue = _link_prologue(network_id, peer_id)
    state, payload = _open_first(pattern, suite, prologue, link_keys, keys, message)
    ephemeral, link_key = state.remote_ephemeral, state.remote_static
    assert ephemeral is not None
    if is_repeat is not None:
        expect(not is_repeat(ephemeral), "a message 1 that was here before")
    initiator = None
    if link_key is not None:
        initiator = _check_credentials(network_id, link_key, payload, now)
        expect(initiator != peer_id, "a link from our own peer id")
    yield Send(_with_length(state.write_message()))
    split = state.split()
    return LinkSecrets(
        suite,
        send_key=split.responder_key,
        receive_key=split.initiator_key,
        handshake_hash=split.handshake_hash,
        peer_id=initiator,
    )


@dataclass(frozen=True)
class HopSecrets:
    """Hold what a circuit's origin and one hop share, 32 bytes each; both sides' are equal.

    ``forward_key`` is for what goes away from the origin. ``resume_secret`` matters with the
    last hop only (protocol §5.4).
    """

    suite: Suite
    forward_key: bytes = field(repr=False)
    backward_key: bytes = field(repr=False)
    resume_secret: bytes = field(repr=False)
    handshake_hash: bytes = field(repr=False)


class CircuitInitiator:
    """Own the origin's side of one hop's handshake; ``message`` is what CREATE or EXTEND takes."""

    def __init__(
        self,
        network_id: bytes,
        peer_id: PeerId,
        onion_key: bytes,
        depth: int,
        suite: Suite,
        keys: KeySource,
    ) -> None:
        """Prepare message 1 for the hop `peer_id` at the 0-based `depth`.

        Raises ProtocolError when `onion_key` gives no shared secret (T53).
        """
        self._suite = suite
        self._state = HandshakeState(
            NKHFS,
            suite,
            _circuit_prologue(network_id, peer_id, depth),
            keys,
            is_initiator=True,
            remote_static=onion_key,
        )
        self.message: bytes = self._state.write_message()

    def finish(self, message2: bytes) -> HopSecrets:
        """Return the secrets, given the hop's message 2 of 1152 bytes; to be called once.

        Raises ProtocolError unless it is the answer of who has the onion key.
        """
        _expect_length(len(message2), CIRCUIT_MESSAGE_2_LENGTH)
        self._state.read_message(message2)
        return _hop_secrets(self._suite, self._state)


def answer_circuit(
    network_id: bytes,
    peer_id: PeerId,
    onion_keys: Sequence[KeyPair],
    depth: int,
    suite: Suite,
    message1: bytes,
    keys: KeySource,
) -> tuple[bytes, HopSecrets]:
    """Return message 2 and the secrets, given an origin's message 1 of 1248 bytes.

    `onion_keys` are the current and the previous one. Raises ProtocolError for a message made
    for other keys, another peer, depth, suite or network, or changed in any bit (T54).
    """
    _expect_length(len(message1), CIRCUIT_MESSAGE_1_LENGTH)
    prologue = _circuit_prologue(network_id, peer_id, depth)
    state, _ = _open_first(NKHFS, suite, prologue, onion_keys, keys, message1)
    answer = state.write_message()
    return answer, _hop_secrets(suite, state)


def _link_prologue(network_id: bytes, responder: PeerId) -> bytes:
    return b"warren link 1" + network_id + responder


def _circuit_prologue(network_id: bytes, responder: PeerId, depth: int) -> bytes:
    return b"warren circuit 1" + network_id + responder + bytes((depth,))


def _certified(network_id: bytes, link_key: bytes, expiry: int) -> bytes:
    """Return what a link key's certificate signs."""
    return b"warren link key 1" + network_id + link_key + expiry.to_bytes(8, "big")


def _check_credentials(network_id: bytes, link_key: bytes, payload: bytes, now: float) -> PeerId:
    """Return the peer id that `payload` proves `link_key` to be of (LNK-2)."""
    peer_id, certificate = PeerId(payload[:32]), payload[40:]
    expiry = int.from_bytes(payload[32:40], "big")
    expect(now < expiry, f"a link key that expired at {expiry}")
    expect(
        verify(peer_id, _certified(network_id, link_key, expiry), certificate),
        f"a link key that {peer_id!r} did not certify in this network",
    )
    return peer_id


def _open_first(
    pattern: Pattern,
    suite: Suite,
    prologue: bytes,
    statics: Sequence[KeyPair],
    keys: KeySource,
    message: bytes,
) -> tuple[HandshakeState, bytes]:
    """Open message 1 with the first of `statics` that fits; return the state and the payload."""
    for static in statics:
        state = HandshakeState(pattern, suite, prologue, keys, is_initiator=False, static=static)
        try:
            return state, state.read_message(message)
        except ProtocolError:
            continue  # it may be for the previous key
    raise ProtocolError("a handshake for none of our keys, or a changed one")


def _hop_secrets(suite: Suite, state: HandshakeState) -> HopSecrets:
    split = state.split()
    return HopSecrets(
        suite,
        forward_key=split.initiator_key,
        backward_key=split.responder_key,
        resume_secret=split.extra_secret,
        handshake_hash=split.handshake_hash,
    )


def _with_length(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


def _receive_message(expected: int) -> Exchange[bytes]:
    """Take a length and a message; any other length is refused before more is read (LNK-1)."""
    _expect_length(int.from_bytes((yield Receive(2)), "big"), expected)
    return (yield Receive(expected))


def _expect_length(length: int, expected: int) -> None:
    expect(length == expected, f"a handshake message of {length} bytes, expected {expected}")
