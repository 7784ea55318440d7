"""Values that lie where others can reach them: encrypted, authenticated and bound to their key.

What is sealed under one key opens under that key alone, and only for those who have the secret. The name
under which it lies tells nobody what it is. AES-256-GCM (NIST SP 800-38D) with a random nonce of 96 bits and,
for each key, an encryption key of its own, derived by HKDF (RFC 5869) and HMAC-SHA256: so the limit of 2^32
values under random nonces holds for each key, not for the cluster. Why: docs/adr/0013.

A sealed value is one byte of version, the nonce, the ciphertext, and a tag of 16 bytes.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VERSION: Final = b"\x01"
#: Random bytes that each sealing needs; never the same twice for one key.
NONCE: Final = 12
_TAG: Final = 16
#: Bytes by which a sealed value is longer than the value.
OVERHEAD: Final = len(VERSION) + NONCE + _TAG
#: Bytes of a secret, at least.
MIN_SECRET: Final = 16


class Seal:
    """Seals, opens and names values with keys derived from one secret."""

    def __init__(self, secret: bytes) -> None:
        """Derive the keys; raises `ValueError` when the secret is too short to be one."""
        if len(secret) < MIN_SECRET:
            raise ValueError(f"a secret of {len(secret)} bytes protects nothing")
        self._values = _derived(secret, b"values")
        self._names = _derived(secret, b"names")
        #: The beginning of all names, of this secret alone.
        self.prefix: Final = f"cached:{_derived(secret, b'prefix')[:8].hex()}:"

    def name(self, key: str) -> str:
        """Return the name under which the value of `key` lies."""
        return f"{self.prefix}{_mac(self._names, key)[:16].hex()}"

    def seal(self, key: str, value: bytes, nonce: bytes) -> bytes:
        """Return the value as it may be given away; `nonce` is `NONCE` random bytes, new each time."""
        return VERSION + nonce + self._cipher(key).encrypt(nonce, value, self._bound(key))

    def open(self, key: str, sealed: bytes) -> bytes | None:
        """Return the value, or None unless it was sealed with this secret, for this key, and is unchanged."""
        from cryptography.exceptions import InvalidTag

        if len(sealed) < OVERHEAD or sealed[: len(VERSION)] != VERSION:
            return None
        nonce = sealed[len(VERSION) : len(VERSION) + NONCE]
        rest = memoryview(sealed)[len(VERSION) + NONCE :]
        try:
            return self._cipher(key).decrypt(nonce, rest, self._bound(key))
        except InvalidTag:
            return None

    def _cipher(self, key: str) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return AESGCM(_mac(self._values, key))

    def _bound(self, key: str) -> bytes:
        return VERSION + key.encode()


def _mac(secret: bytes, key: str) -> bytes:
    return hmac.digest(secret, key.encode(), hashlib.sha256)


def _derived(secret: bytes, purpose: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"cached sealed values 1 " + purpose).derive(
        secret
    )
