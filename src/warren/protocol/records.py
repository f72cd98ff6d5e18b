"""Records: what a link puts on its socket, each one to fifteen cells sealed together.

::

    record = length u16 | AEAD ciphertext of 1 to 15 cells         (protocol §2)

Each direction has a key of its own, and a counter that is never sent: a record that is lost,
repeated or out of order does not open. Which cells go together is decided in ``link``.
"""

from cryptography.exceptions import InvalidTag

from warren.errors import refuse
from warren.identity import Suite
from warren.protocol import ciphers
from warren.protocol.cells import CELL_LENGTH
from warren.protocol.ciphers import TAG_LENGTH
from warren.protocol.noise import rekey

MOST_RECORD_CELLS = 15
#: Bytes of a record that are no cell's.
RECORD_EXTRA = 2 + TAG_LENGTH
MOST_RECORD = MOST_RECORD_CELLS * CELL_LENGTH + RECORD_EXTRA
#: What may stand in front of a record.
RECORD_LENGTHS = frozenset(
    cells * CELL_LENGTH + TAG_LENGTH for cells in range(1, MOST_RECORD_CELLS + 1)
)
RECORDS_PER_KEY = 1 << 16


class RecordKey:
    """Hold one direction's key; REKEY comes before record 2^16·k, the counter goes on."""

    __slots__ = ("_aead", "_key", "_nonce", "_suite", "count")

    def __init__(self, suite: Suite, key: bytes) -> None:
        self._suite = suite
        self._nonce = ciphers.nonce_maker(suite)
        self.count = 0
        self._use(key)

    def _use(self, key: bytes) -> None:
        self._key = key
        self._aead = ciphers.make_aead(self._suite, key)

    def seal(self, plain: bytes | memoryview, record: memoryview) -> None:
        """Seal the next record's cells into `record`, 16 bytes longer."""
        count = self.count
        if not count % RECORDS_PER_KEY:
            self._begin_key(count)
        self.count = count + 1
        self._aead.encrypt_into(self._nonce(count), plain, None, record)

    def open(self, record: memoryview, plain: memoryview) -> None:
        """Open the next record into `plain`, 16 bytes shorter; raise ProtocolError if it fails."""
        count = self.count
        if not count % RECORDS_PER_KEY:
            self._begin_key(count)
        self.count = count + 1
        try:
            self._aead.decrypt_into(self._nonce(count), record, None, plain)
        except InvalidTag:
            refuse("a record that does not open")

    def _begin_key(self, count: int) -> None:
        """Replace the key before record `count`, unless it is the first (REKEY)."""
        if count:
            self._use(rekey(self._suite, self._key))
