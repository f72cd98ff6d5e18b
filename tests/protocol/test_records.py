"""Records: a key for each direction, which changes; how links use them is in ``test_link``."""

import pytest

from warren.errors import ProtocolError
from warren.identity import Suite
from warren.protocol import records
from warren.protocol.cells import CELL_LENGTH
from warren.protocol.ciphers import TAG_LENGTH, make_aead, nonce_maker
from warren.protocol.noise import rekey
from warren.protocol.records import RecordKey

both_suites = pytest.mark.parametrize("suite", list(Suite), ids=lambda suite: suite.name)


@both_suites
def test_rekey_comes_before_record_2_16_k_and_the_counter_goes_on(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert records.RECORDS_PER_KEY == 1 << 16
    monkeypatch.setattr(records, "RECORDS_PER_KEY", 3)
    key = RecordKey(suite, bytes(32))
    cells, record = bytes(CELL_LENGTH), memoryview(bytearray(CELL_LENGTH + TAG_LENGTH))

    keys = [bytes(32)]
    for _ in range(2):
        keys.append(rekey(suite, keys[-1]))
    for number in range(9):
        key.seal(cells, record)
        nonce = nonce_maker(suite)(number)
        assert make_aead(suite, keys[number // 3]).decrypt(nonce, record, None) == cells


@both_suites
def test_what_one_key_seals_the_same_key_opens_once(suite: Suite) -> None:
    sealer, opener = RecordKey(suite, bytes(32)), RecordKey(suite, bytes(32))
    cells, record = bytes(range(256)) * 16, memoryview(bytearray(CELL_LENGTH + TAG_LENGTH))
    plain = memoryview(bytearray(CELL_LENGTH))

    sealer.seal(cells, record)
    opener.open(record, plain)

    assert plain == cells
    with pytest.raises(ProtocolError, match="does not open"):
        opener.open(record, plain)
