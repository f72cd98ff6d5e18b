"""Chance that repeats: every die of a simulation is thrown by a generator of its own.

Each is named after who throws it, so that a fault more or less does not change what the others
draw. One thing the seed does not reach: ``cryptography`` encapsulates ML-KEM secrets with the
system's chance only. What follows from it are ciphertexts of the same length, and nothing that
anybody decides by.
"""

from random import Random

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

from warren.identity import Identity, KemKey, KeyPair, SystemKeys


def dice(*names: object) -> Random:
    """Return the generator that belongs to these names, a seed first."""
    return Random("/".join(map(str, names)))


class SeededKeys(SystemKeys):
    """Be a ``KeySource`` whose own keys repeat."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def key_pair(self) -> KeyPair:
        return KeyPair.from_private(self._rng.randbytes(32))

    def kem_key(self) -> KemKey:
        return KemKey(MLKEM768PrivateKey.from_seed_bytes(self._rng.randbytes(64)))


def seeded_identity(*names: object) -> Identity:
    """Return the identity that belongs to these names."""
    return Identity(dice(*names, "identity").randbytes(32))
