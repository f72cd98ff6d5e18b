"""Paper tests: exchanges that talk without a socket, and handshake keys that repeat.

``converse`` lets two exchanges talk to each other; a ``Side`` is one of them by itself, for a
test that plays the other side. ``FixedKeys`` is a ``KeySource`` without chance.
"""

from hashlib import sha256, shake_256
from typing import Generic, TypeVar

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

from warren.identity import KEM_CIPHERTEXT_LENGTH, KemKey, KeyPair
from warren.protocol.exchange import Exchange, Send, Wanted, advance

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")


class Side(Generic[T]):
    """Own one exchange and the bytes that it has not asked for yet.

    ``sent`` is all it has sent so far, ``buffer`` what it has left unread, and ``result`` what
    it returned once ``is_done``.
    """

    def __init__(self, exchange: Exchange[T]) -> None:
        self._exchange = exchange
        self._wanted: Wanted | Send = next(exchange)
        self._results: list[T] = []
        self.buffer = bytearray()
        self.sent = b""
        self._go_on()

    @property
    def is_done(self) -> bool:
        return bool(self._results)

    @property
    def result(self) -> T:
        assert self.is_done, f"the exchange still wants {self._wanted}"
        return self._results[0]

    def receive(self, data: bytes) -> bytes:
        """Give it `data`; return what it sends in answer."""
        before = len(self.sent)
        self.buffer += data
        self._go_on()
        return self.sent[before:]

    def _go_on(self) -> None:
        try:
            while not self.is_done:
                self._wanted = wanted = advance(self._exchange, self._wanted, self.buffer)
                if not isinstance(wanted, Send):
                    return
                self.sent += wanted.data
                self._wanted = self._exchange.send(b"")
        except StopIteration as done:
            self._results.append(done.value)


def converse(initiator: Exchange[A], responder: Exchange[B]) -> tuple[A, B]:
    """Feed two exchanges to each other until both are done; return what they return.

    Raises what either raises. They must finish, and leave no byte unread.
    """
    left, right = Side(initiator), Side(responder)
    to_right, to_left = left.sent, right.sent
    while to_right or to_left:
        to_left += right.receive(to_right)
        to_right = left.receive(to_left)
        to_left = b""
    results = left.result, right.result
    assert not left.buffer, f"the initiator left {len(left.buffer)} bytes unread"
    assert not right.buffer, f"the responder left {len(right.buffer)} bytes unread"
    return results


class FixedKeys:
    """Be a ``KeySource`` whose keys follow from a label, for both sides of one handshake.

    ML-KEM takes any 1088 bytes for a ciphertext, and decapsulates those that nobody
    encapsulated to a secret of its own (FIPS 203 §6.3, HS-1). So even ``encapsulate`` repeats.
    """

    def __init__(self, label: bytes) -> None:
        self._label = label
        self._pairs_made = 0
        self.kem_seed = self._bytes(b"kem", 64)
        self.ciphertext = self._bytes(b"ciphertext", KEM_CIPHERTEXT_LENGTH)

    def private_key(self, number: int) -> bytes:
        """Return the private half of the key pair that ``key_pair`` gives as `number`, from 0."""
        return sha256(b"key pair %d of " % number + self._label).digest()

    def key_pair(self) -> KeyPair:
        self._pairs_made += 1
        return KeyPair.from_private(self.private_key(self._pairs_made - 1))

    def kem_key(self) -> KemKey:
        return KemKey(MLKEM768PrivateKey.from_seed_bytes(self.kem_seed))

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        kem_key = self.kem_key()
        assert public == kem_key.public, "both sides take the same FixedKeys"
        return self.ciphertext, kem_key.decapsulate(self.ciphertext)

    def _bytes(self, purpose: bytes, count: int) -> bytes:
        return shake_256(purpose + b" of " + self._label).digest(count)
