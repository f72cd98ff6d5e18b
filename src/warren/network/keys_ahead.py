"""Keys made ahead: fresh key pairs lie ready when a circuit or a link needs them.

To make the keys of a handshake takes longer than all else an initiator does before its first
message leaves, and somebody waits for that. So a few are made while nobody does. Each is given
away once and is out of here from then on, whatever becomes of the handshake; those that nobody
took are dropped after a while, so that what is found in memory later opens nothing older
(decision 21). Where keys come from, and for whom, is decided by who makes this.
"""

from collections import deque
from typing import Generic, TypeVar

import trio

from warren.identity import KemKey, KeyPair, KeySource

#: Keys of each kind that lie ready: for the spares of a client, and one circuit more.
MOST_KEYS = 9
#: How long a key may lie here. Half of it later at the latest it is gone from memory.
KEEP_SECONDS = 300.0
#: Before keys are made again: what needed them is done first.
PAUSE_SECONDS = 0.05

K = TypeVar("K")


class _Stock(Generic[K]):
    """Own the keys of one kind, each with the time it was made at; the oldest comes first."""

    def __init__(self) -> None:
        self._keys: deque[tuple[float, K]] = deque()

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: K) -> None:
        self._keys.append((trio.current_time(), key))

    def take(self) -> K | None:
        """Return a key that nobody has had, or None."""
        self.drop_old()
        return self._keys.popleft()[1] if self._keys else None

    def drop_old(self) -> None:
        oldest = trio.current_time() - KEEP_SECONDS
        while self._keys and self._keys[0][0] <= oldest:
            self._keys.popleft()


class KeysAhead:
    """Be a ``KeySource`` that has keys of `source` ready; ``run`` makes them.

    When none is ready, it is made at once, so nobody waits and nothing depends on ``run``.
    """

    def __init__(self, source: KeySource) -> None:
        self._source = source
        self._pairs = _Stock[KeyPair]()
        self._kem_keys = _Stock[KemKey]()
        self._taken = trio.Event()

    def __repr__(self) -> str:
        return f"<KeysAhead {len(self._pairs)} and {len(self._kem_keys)} ready>"

    def key_pair(self) -> KeyPair:
        """Return a fresh X25519 key pair."""
        self._taken.set()
        return self._pairs.take() or self._source.key_pair()

    def kem_key(self) -> KemKey:
        """Return a fresh ML-KEM-768 key."""
        self._taken.set()
        return self._kem_keys.take() or self._source.kem_key()

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        """Return ciphertext and secret for `public`; see ``KeySource``."""
        return self._source.encapsulate(public)

    async def run(self) -> None:
        """Make keys whenever some were taken or have become too old; runs for ever."""
        while True:
            self._pairs.drop_old()
            self._kem_keys.drop_old()
            await self._make()
            with trio.move_on_after(KEEP_SECONDS / 2):
                await self._taken.wait()
            await trio.sleep(PAUSE_SECONDS)
            self._taken = trio.Event()

    async def _make(self) -> None:
        while True:
            if len(self._kem_keys) < MOST_KEYS:
                self._kem_keys.add(self._source.kem_key())
            elif len(self._pairs) < MOST_KEYS:
                self._pairs.add(self._source.key_pair())
            else:
                return
            await trio.lowlevel.checkpoint()  # one at a time: sockets are served in between
