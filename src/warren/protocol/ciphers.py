"""The two AEADs and their counter nonces (Noise §12.3, §12.4).

Both come from ``cryptography``, whose ``encrypt_into`` and ``decrypt_into`` write to a caller's
buffer of the exact length. After a failed ``decrypt_into`` the buffer holds the forged
plaintext: drop it, and queue a buffer only after success.
"""

from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from warren.identity import Suite

TAG_LENGTH = 16
AEAD = AESGCM | ChaCha20Poly1305


def make_aead(suite: Suite, key: bytes) -> AEAD:
    """Return the AEAD of `suite` under the 32-byte `key`."""
    return AESGCM(key) if suite is Suite.AESGCM else ChaCha20Poly1305(key)


def _aesgcm_nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "big")


def _chachapoly_nonce(counter: int) -> bytes:
    return (counter << 32).to_bytes(12, "little")


def nonce_maker(suite: Suite) -> Callable[[int], bytes]:
    """Return the function from a 64-bit counter to the 12-byte nonce of `suite`."""
    return _aesgcm_nonce if suite is Suite.AESGCM else _chachapoly_nonce
