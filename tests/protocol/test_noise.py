"""Noise against two other implementations, and against everything a peer may send instead."""

from dataclasses import dataclass
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st
from noise.connection import (  # type: ignore[import-untyped]  # it has no types
    Keypair,
    NoiseConnection,
)

from tests.support import reference_noise
from tests.support.paper import FixedKeys
from warren.errors import ProtocolError
from warren.identity import KemKey, KeyPair, KeySource, Suite, SystemKeys
from warren.protocol.ciphers import make_aead, nonce_maker
from warren.protocol.noise import (
    IK,
    IKHFS,
    NK,
    NKHFS,
    HandshakeState,
    Pattern,
    Split,
    _hkdf,
    rekey,
)

PROLOGUE = b"a prologue"
PAYLOAD = b"first payload"
ANSWER = b"second payload, which is longer"

SUITES = list(Suite)
NAMES = {Suite.AESGCM: "AESGCM", Suite.CHACHAPOLY: "ChaChaPoly"}

INITIATOR = KeyPair.from_private(sha256(b"the initiator's static key").digest())
RESPONDER = KeyPair.from_private(sha256(b"the responder's static key").digest())

# Every point of order 1, 2, 4 or 8 on Curve25519 and its twist, with the spellings not reduced.
ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
FIELD = 2**255 - 19
LOW_ORDER_POINTS = [
    number.to_bytes(32, "little")
    for number in (0, 1, FIELD - 1, FIELD, FIELD + 1, *ORDER_8, 2**255, 2**255 + 1)
]

both_suites = pytest.mark.parametrize("suite", SUITES, ids=NAMES.values())
both_hybrids = pytest.mark.parametrize("pattern", [NKHFS, IKHFS], ids=lambda pattern: pattern.name)


@dataclass(frozen=True)
class Run:
    """Hold what a whole handshake between two of our states came to."""

    message_1: bytes
    message_2: bytes
    payload_1: bytes
    payload_2: bytes
    initiator: Split
    responder: Split


def make_initiator(
    pattern: Pattern,
    suite: Suite,
    keys: KeySource,
    *,
    prologue: bytes = PROLOGUE,
    static: KeyPair = INITIATOR,
    responder: bytes = RESPONDER.public,
) -> HandshakeState:
    return HandshakeState(
        pattern,
        suite,
        prologue,
        keys,
        is_initiator=True,
        static=static if pattern.name.startswith("IK") else None,
        remote_static=responder,
    )


def make_responder(
    pattern: Pattern, suite: Suite, keys: KeySource, *, prologue: bytes = PROLOGUE
) -> HandshakeState:
    return HandshakeState(pattern, suite, prologue, keys, is_initiator=False, static=RESPONDER)


def run(pattern: Pattern, suite: Suite, keys: KeySource, prologue: bytes = PROLOGUE) -> Run:
    initiator = make_initiator(pattern, suite, keys, prologue=prologue)
    responder = make_responder(pattern, suite, keys, prologue=prologue)
    message_1 = initiator.write_message(PAYLOAD)
    payload_1 = responder.read_message(message_1)
    message_2 = responder.write_message(ANSWER)
    payload_2 = initiator.read_message(message_2)
    return Run(message_1, message_2, payload_1, payload_2, initiator.split(), responder.split())


def run_reference(
    pattern: Pattern, suite: Suite, keys: FixedKeys, prologue: bytes
) -> reference_noise.Transcript:
    fixed: dict[str, bytes] = {
        "responder_static": RESPONDER.private,
        "initiator_ephemeral": keys.private_key(0),
        "responder_ephemeral": keys.private_key(1),
        "kem_seed": keys.kem_seed,
        "ciphertext": keys.ciphertext,
        "payload_1": PAYLOAD,
        "payload_2": ANSWER,
    }
    if pattern is NKHFS:
        return reference_noise.run_nkhfs(NAMES[suite], prologue, **fixed)
    return reference_noise.run_ikhfs(
        NAMES[suite], prologue, initiator_static=INITIATOR.private, **fixed
    )


def flip(message: bytes, bit: int) -> bytes:
    changed = bytearray(message)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# Two other implementations (T55)


@both_suites
@both_hybrids
@settings(max_examples=15)
@given(label=st.binary(max_size=8), prologue=st.binary(max_size=100))
def test_a_hybrid_handshake_is_byte_for_byte_that_of_the_reference(
    pattern: Pattern, suite: Suite, label: bytes, prologue: bytes
) -> None:
    ours = run(pattern, suite, FixedKeys(label), prologue)

    theirs = run_reference(pattern, suite, FixedKeys(label), prologue)

    assert (ours.message_1, ours.message_2) == (theirs.message_1, theirs.message_2)
    assert ours.initiator == ours.responder
    assert ours.initiator == Split(
        theirs.initiator_key, theirs.responder_key, theirs.extra_secret, theirs.handshake_hash
    )


class RecordingKeys(SystemKeys):
    """Be the system's chance, and remember it."""

    def __init__(self) -> None:
        self.privates: list[bytes] = []
        self.ciphertext = b""

    def key_pair(self) -> KeyPair:
        pair = super().key_pair()
        self.privates.append(pair.private)
        return pair

    def kem_key(self) -> KemKey:
        return FixedKeys(b"recorded").kem_key()

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        self.ciphertext, secret = super().encapsulate(public)
        return self.ciphertext, secret


@both_suites
def test_with_real_encapsulation_both_implementations_still_agree(suite: Suite) -> None:
    keys = RecordingKeys()

    ours = run(NKHFS, suite, keys)

    theirs = reference_noise.run_nkhfs(
        NAMES[suite],
        PROLOGUE,
        responder_static=RESPONDER.private,
        initiator_ephemeral=keys.privates[0],
        responder_ephemeral=keys.privates[1],
        kem_seed=FixedKeys(b"recorded").kem_seed,
        ciphertext=keys.ciphertext,
        payload_1=PAYLOAD,
        payload_2=ANSWER,
    )
    assert ours.message_2 == theirs.message_2
    assert ours.responder.extra_secret == theirs.extra_secret


KNOWN_ANSWERS = {
    ("NKhfs", Suite.AESGCM): "049a22f76e134ecfb0b5c0ae27f8096d10dc8ee7087b9d17d25da6830bc83edd",
    ("NKhfs", Suite.CHACHAPOLY): "e061deaa898d4509eed74c3909a049b2df451d0d661fd52417191f59c20f4ec6",
    ("IKhfs", Suite.AESGCM): "149d2affb3e099262e3104637a04e082640f9cb545dd579e1ca022f1dbc37cc9",
    ("IKhfs", Suite.CHACHAPOLY): "30bd6bcf6bfe390d48fecbf4231c8ca6b912e4f6e484500536b4f07c17a43183",
}


@both_suites
@both_hybrids
def test_the_known_answers_have_not_changed(pattern: Pattern, suite: Suite) -> None:
    done = run(pattern, suite, FixedKeys(b"known answer"))

    split = done.initiator
    everything = (
        done.message_1
        + done.message_2
        + split.initiator_key
        + split.responder_key
        + split.extra_secret
        + split.handshake_hash
    )
    assert sha256(everything).hexdigest() == KNOWN_ANSWERS[pattern.name, suite]


def connect_package(
    pattern: Pattern, suite: Suite, *, is_initiator: bool, ephemeral: bytes | None = None
) -> Any:
    package = NoiseConnection.from_name(pattern.protocol_name(suite))
    package.set_prologue(PROLOGUE)
    if is_initiator:
        package.set_as_initiator()
        package.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, RESPONDER.public)
        if pattern is IK:
            package.set_keypair_from_private_bytes(Keypair.STATIC, INITIATOR.private)
    else:
        package.set_as_responder()
        package.set_keypair_from_private_bytes(Keypair.STATIC, RESPONDER.private)
    if ephemeral is None:
        package.start_handshake()
    else:
        package.set_keypair_from_private_bytes(Keypair.EPHEMERAL, ephemeral)
        with pytest.warns(UserWarning, match="ephemeral"):
            package.start_handshake()
    return package


@both_suites
@pytest.mark.parametrize("pattern", [NK, IK], ids=["NK", "IK"])
def test_our_initiator_talks_to_another_responder(pattern: Pattern, suite: Suite) -> None:
    ours = make_initiator(pattern, suite, SystemKeys())
    package = connect_package(pattern, suite, is_initiator=False)

    heard = package.read_message(ours.write_message(PAYLOAD))
    answer = ours.read_message(bytes(package.write_message(ANSWER)))
    split = ours.split()

    assert (heard, answer) == (PAYLOAD, ANSWER)
    assert split.handshake_hash == package.get_handshake_hash()
    sealed = make_aead(suite, split.initiator_key).encrypt(nonce_maker(suite)(0), b"hello", None)
    assert package.decrypt(sealed) == b"hello"


@both_suites
@pytest.mark.parametrize("pattern", [NK, IK], ids=["NK", "IK"])
def test_our_responder_talks_to_another_initiator(pattern: Pattern, suite: Suite) -> None:
    ours = make_responder(pattern, suite, SystemKeys())
    package = connect_package(pattern, suite, is_initiator=True)

    heard = ours.read_message(bytes(package.write_message(PAYLOAD)))
    answer = package.read_message(ours.write_message(ANSWER))
    split = ours.split()

    assert (heard, answer) == (PAYLOAD, ANSWER)
    assert split.handshake_hash == package.get_handshake_hash()
    sealed = make_aead(suite, split.responder_key).encrypt(nonce_maker(suite)(0), b"hello", None)
    assert package.decrypt(sealed) == b"hello"


@both_suites
@pytest.mark.parametrize("pattern", [NK, IK], ids=["NK", "IK"])
def test_with_the_same_keys_the_plain_messages_are_those_of_the_package(
    pattern: Pattern, suite: Suite
) -> None:
    keys = FixedKeys(b"plain")

    ours = run(pattern, suite, keys)

    theirs = connect_package(pattern, suite, is_initiator=True, ephemeral=keys.private_key(0))
    other = connect_package(pattern, suite, is_initiator=False, ephemeral=keys.private_key(1))
    assert ours.message_1 == theirs.write_message(PAYLOAD)
    other.read_message(ours.message_1)
    assert ours.message_2 == other.write_message(ANSWER)


@both_suites
def test_rekey_is_that_of_the_package(suite: Suite) -> None:
    keys = FixedKeys(b"rekey")
    key = run(NK, suite, keys).initiator.initiator_key
    package = connect_package(NK, suite, is_initiator=True, ephemeral=keys.private_key(0))
    other = connect_package(NK, suite, is_initiator=False, ephemeral=keys.private_key(1))
    other.read_message(bytes(package.write_message(PAYLOAD)))
    package.read_message(bytes(other.write_message(ANSWER)))

    package.rekey_outbound_cipher()

    sealed = package.encrypt(b"after the change")
    aead = make_aead(suite, rekey(suite, key))
    assert aead.decrypt(nonce_maker(suite)(0), sealed, None) == b"after the change"
    assert rekey(suite, key) != key


# Shapes


@both_suites
@pytest.mark.parametrize("pattern", [NK, IK, NKHFS, IKHFS], ids=lambda pattern: pattern.name)
def test_both_sides_end_with_the_same_keys_and_each_others_payloads(
    pattern: Pattern, suite: Suite
) -> None:
    done = run(pattern, suite, SystemKeys())

    assert done.initiator == done.responder
    assert (done.payload_1, done.payload_2) == (PAYLOAD, ANSWER)
    secrets = {
        done.initiator.initiator_key,
        done.initiator.responder_key,
        done.initiator.extra_secret,
        done.initiator.handshake_hash,
    }
    assert [len(secret) for secret in secrets] == [32, 32, 32, 32]


@pytest.mark.parametrize("pattern", [NK, IK, NKHFS, IKHFS], ids=lambda pattern: pattern.name)
def test_messages_have_the_length_that_their_pattern_says(pattern: Pattern) -> None:
    done = run(pattern, Suite.AESGCM, SystemKeys())

    assert len(done.message_1) == pattern.message_length(1, len(PAYLOAD))
    assert len(done.message_2) == pattern.message_length(2, len(ANSWER))


def test_a_hybrid_nk_message_is_1248_bytes_and_its_answer_1152() -> None:
    assert (NKHFS.message_length(1), NKHFS.message_length(2)) == (1248, 1152)


def test_protocol_names_are_those_of_the_protocol_document() -> None:
    assert NKHFS.protocol_name(Suite.AESGCM) == b"Noise_NKhfs_25519+MLKEM768_AESGCM_SHA256"
    assert IKHFS.protocol_name(Suite.CHACHAPOLY) == b"Noise_IKhfs_25519+MLKEM768_ChaChaPoly_SHA256"
    assert NK.protocol_name(Suite.AESGCM) == b"Noise_NK_25519_AESGCM_SHA256"


@both_hybrids
def test_the_responder_learns_the_static_key_of_ik_only(pattern: Pattern) -> None:
    responder = make_responder(pattern, Suite.AESGCM, SystemKeys())

    responder.read_message(make_initiator(pattern, Suite.AESGCM, SystemKeys()).write_message())

    assert responder.remote_static == (INITIATOR.public if pattern is IKHFS else None)


@both_hybrids
def test_keys_are_not_in_a_repr(pattern: Pattern) -> None:
    split = run(pattern, Suite.AESGCM, SystemKeys()).initiator

    assert repr(split.initiator_key) not in repr(split)
    assert repr(split.extra_secret) not in repr(split)


# What a peer may send instead (T54): ProtocolError and nothing else


@both_suites
@both_hybrids
def test_a_flipped_bit_in_any_byte_of_message_1_is_refused(pattern: Pattern, suite: Suite) -> None:
    message = make_initiator(pattern, suite, SystemKeys()).write_message(PAYLOAD)

    for position in range(len(message)):
        responder = make_responder(pattern, suite, SystemKeys())
        with pytest.raises(ProtocolError):
            responder.read_message(flip(message, 8 * position + position % 8))


@both_suites
@both_hybrids
def test_a_flipped_bit_in_any_byte_of_message_2_is_refused(pattern: Pattern, suite: Suite) -> None:
    message = run(pattern, suite, FixedKeys(b"flip")).message_2

    for position in range(len(message)):
        initiator = make_initiator(pattern, suite, FixedKeys(b"flip"))
        initiator.write_message(PAYLOAD)
        with pytest.raises(ProtocolError):
            initiator.read_message(flip(message, 8 * position + position % 8))


@both_hybrids
@settings(max_examples=100)
@given(place=st.floats(0, 1, exclude_max=True), number=st.sampled_from((1, 2)))
def test_any_single_flipped_bit_is_refused(pattern: Pattern, place: float, number: int) -> None:
    done = run(pattern, Suite.CHACHAPOLY, FixedKeys(b"any bit"))
    initiator = make_initiator(pattern, Suite.CHACHAPOLY, FixedKeys(b"any bit"))
    initiator.write_message(PAYLOAD)
    reader = make_responder(pattern, Suite.CHACHAPOLY, SystemKeys()) if number == 1 else initiator
    message = done.message_1 if number == 1 else done.message_2

    with pytest.raises(ProtocolError):
        reader.read_message(flip(message, int(place * 8 * len(message))))


@pytest.mark.parametrize("number", [1, 2])
def test_the_bit_that_x25519_ignores_counts_all_the_same(number: int) -> None:
    done = run(NKHFS, Suite.AESGCM, FixedKeys(b"top bit"))
    initiator = make_initiator(NKHFS, Suite.AESGCM, FixedKeys(b"top bit"))
    initiator.write_message(PAYLOAD)
    reader = make_responder(NKHFS, Suite.AESGCM, SystemKeys()) if number == 1 else initiator

    with pytest.raises(ProtocolError, match="does not open"):
        reader.read_message(flip(done.message_1 if number == 1 else done.message_2, 255))


@both_hybrids
def test_a_message_cut_short_anywhere_is_refused(pattern: Pattern) -> None:
    message = make_initiator(pattern, Suite.AESGCM, SystemKeys()).write_message()

    for length in range(len(message)):
        reason = "cut short" if length < len(message) - 16 else "does not open"
        with pytest.raises(ProtocolError, match=reason):
            make_responder(pattern, Suite.AESGCM, SystemKeys()).read_message(message[:length])


@both_hybrids
@given(extra=st.binary(min_size=1, max_size=40))
def test_a_message_with_bytes_behind_it_is_refused(pattern: Pattern, extra: bytes) -> None:
    message = make_initiator(pattern, Suite.AESGCM, SystemKeys()).write_message()

    with pytest.raises(ProtocolError):
        make_responder(pattern, Suite.AESGCM, SystemKeys()).read_message(message + extra)


@both_hybrids
@given(garbage=st.binary(max_size=2000))
def test_garbage_is_refused_on_either_side(pattern: Pattern, garbage: bytes) -> None:
    initiator = make_initiator(pattern, Suite.AESGCM, SystemKeys())
    initiator.write_message()

    for reader in (make_responder(pattern, Suite.AESGCM, SystemKeys()), initiator):
        with pytest.raises(ProtocolError):
            reader.read_message(garbage)


@pytest.mark.parametrize("point", LOW_ORDER_POINTS, ids=bytes.hex)
def test_a_low_order_ephemeral_key_is_refused_in_either_message(point: bytes) -> None:
    done = run(NKHFS, Suite.AESGCM, FixedKeys(b"low order"))
    responder = make_responder(NKHFS, Suite.AESGCM, SystemKeys())
    initiator = make_initiator(NKHFS, Suite.AESGCM, FixedKeys(b"low order"))
    initiator.write_message()

    with pytest.raises(ProtocolError, match="no shared secret"):
        responder.read_message(point + done.message_1[32:])
    with pytest.raises(ProtocolError, match="no shared secret"):
        initiator.read_message(point + done.message_2[32:])


@pytest.mark.parametrize("point", LOW_ORDER_POINTS, ids=bytes.hex)
def test_a_low_order_static_key_is_refused(point: bytes) -> None:
    static = KeyPair(INITIATOR.private, point)
    message = make_initiator(IKHFS, Suite.AESGCM, SystemKeys(), static=static).write_message()

    with pytest.raises(ProtocolError, match="no shared secret"):
        make_responder(IKHFS, Suite.AESGCM, SystemKeys()).read_message(message)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_an_initiator_refuses_a_key_of_another_length(length: int) -> None:
    with pytest.raises(ProtocolError, match=f"a static key of {length} bytes"):
        make_initiator(NKHFS, Suite.AESGCM, SystemKeys(), responder=b"\x09" * length)


@pytest.mark.parametrize("point", LOW_ORDER_POINTS, ids=bytes.hex)
def test_an_initiator_refuses_a_low_order_key_of_the_responder(point: bytes) -> None:  # T53
    initiator = make_initiator(NKHFS, Suite.AESGCM, SystemKeys(), responder=point)

    with pytest.raises(ProtocolError, match="no shared secret"):
        initiator.write_message()


class BadEncapsulationKey(SystemKeys):
    """Send an encapsulation key whose coefficients are not reduced."""

    def kem_key(self) -> Any:
        return SimpleNamespace(public=b"\xff" * 1184)


def test_an_encapsulation_key_that_is_not_reduced_is_refused() -> None:
    message = make_initiator(NKHFS, Suite.AESGCM, BadEncapsulationKey()).write_message()
    responder = make_responder(NKHFS, Suite.AESGCM, SystemKeys())
    responder.read_message(message)

    with pytest.raises(ProtocolError, match="encapsulation key"):
        responder.write_message()


class ForeignCiphertext(SystemKeys):
    """Encapsulate to a key that is not the initiator's."""

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        return super().encapsulate(self.kem_key().public)


def test_a_ciphertext_for_another_key_decapsulates_but_does_not_open() -> None:  # HS-1
    initiator = make_initiator(NKHFS, Suite.AESGCM, SystemKeys())
    responder = make_responder(NKHFS, Suite.AESGCM, ForeignCiphertext())
    responder.read_message(initiator.write_message())

    with pytest.raises(ProtocolError, match="does not open"):
        initiator.read_message(responder.write_message())


@both_hybrids
def test_another_prologue_is_refused(pattern: Pattern) -> None:
    message = make_initiator(pattern, Suite.AESGCM, SystemKeys(), prologue=b"other").write_message()

    with pytest.raises(ProtocolError, match="does not open"):
        make_responder(pattern, Suite.AESGCM, SystemKeys()).read_message(message)


@pytest.mark.parametrize(
    ("pattern", "other"), [(NKHFS, NK), (NK, NKHFS), (IKHFS, IK), (IKHFS, NKHFS), (NKHFS, IKHFS)]
)
def test_a_message_of_another_pattern_is_refused(pattern: Pattern, other: Pattern) -> None:  # T55
    message = make_initiator(pattern, Suite.AESGCM, SystemKeys()).write_message(PAYLOAD)

    with pytest.raises(ProtocolError):
        make_responder(other, Suite.AESGCM, SystemKeys()).read_message(message)


@both_hybrids
def test_a_message_of_the_other_suite_is_refused(pattern: Pattern) -> None:  # T55
    message = make_initiator(pattern, Suite.AESGCM, SystemKeys()).write_message()

    with pytest.raises(ProtocolError, match="does not open"):
        make_responder(pattern, Suite.CHACHAPOLY, SystemKeys()).read_message(message)


class NoKeys:
    """Fail whoever asks for a key."""

    def key_pair(self) -> KeyPair:
        raise AssertionError("a key pair was made")

    def kem_key(self) -> KemKey:
        raise AssertionError("an ML-KEM key was made")

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        raise AssertionError("a secret was encapsulated")


@both_hybrids
def test_reading_message_1_makes_no_key_and_does_no_kem(pattern: Pattern) -> None:  # DOS-3
    responder = make_responder(pattern, Suite.AESGCM, NoKeys())

    payload = responder.read_message(
        make_initiator(pattern, Suite.AESGCM, SystemKeys()).write_message(PAYLOAD)
    )

    assert payload == PAYLOAD


# Misuse is a bug


def test_a_state_that_has_raised_is_finished() -> None:
    message = make_initiator(NKHFS, Suite.AESGCM, SystemKeys()).write_message()
    responder = make_responder(NKHFS, Suite.AESGCM, SystemKeys())
    with pytest.raises(ProtocolError):
        responder.read_message(flip(message, 0))

    with pytest.raises(AssertionError, match="make a new one"):
        responder.read_message(message)
    with pytest.raises(AssertionError, match="make a new one"):
        responder.write_message()
    with pytest.raises(AssertionError, match="after its second message"):
        responder.split()


def test_messages_go_in_turn() -> None:
    initiator = make_initiator(NKHFS, Suite.AESGCM, SystemKeys())
    responder = make_responder(NKHFS, Suite.AESGCM, SystemKeys())

    with pytest.raises(AssertionError, match="other side's turn"):
        responder.write_message()
    with pytest.raises(AssertionError, match="other side's turn"):
        initiator.read_message(b"")


def test_a_handshake_has_no_third_message() -> None:
    initiator = make_initiator(NKHFS, Suite.AESGCM, SystemKeys())
    responder = make_responder(NKHFS, Suite.AESGCM, SystemKeys())
    responder.read_message(initiator.write_message())
    initiator.read_message(responder.write_message())

    with pytest.raises(AssertionError, match="two messages"):
        initiator.write_message()
    with pytest.raises(AssertionError, match="two messages"):
        responder.read_message(b"")


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200), st.integers(1, 3))
def test_keys_are_derived_as_the_library_derives_them(
    chaining_key: bytes, material: bytes, count: int
) -> None:
    outputs = _hkdf(chaining_key, material, count)

    assert b"".join(outputs) == HKDF(SHA256(), 32 * count, chaining_key, b"").derive(material)
    assert len(outputs) == count
