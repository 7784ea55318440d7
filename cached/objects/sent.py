"""What was sent to Cloud Storage, so that it is known again: only these bytes are kept as a copy.

What a user hands over stays that user's to write to, and is read twice: to be sent, and to be kept. A checksum does not
tell the two apart: other bytes with the same CRC-32C are made in no time, and whoever may read the object would
read them here. So both readings go through a GMAC (NIST SP 800-38D) under a key that nobody else ever sees.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import AEADEncryptionContext

_KEY: Final = 16
_NONCE: Final = 12


class Sent:
    """The bytes of one object, in the order in which they were read to be sent."""

    def __init__(self) -> None:
        self._key, self._nonce = os.urandom(_KEY), os.urandom(_NONCE)
        self._mac = self._new()
        self._size = 0

    def reading(self, read: Callable[[], bytes]) -> Callable[[], bytes]:
        """Return a reading that notes what it reads."""

        def noted() -> bytes:
            data = read()
            self._mac.authenticate_additional_data(data)
            self._size += len(data)
            return data

        return noted

    def compare(self, size: int) -> Compare:
        """Return what the `size` bytes that are to be kept go through, once all are sent."""
        # Of what was read again, more was sent than there is: what Cloud Storage has of it, nobody can say.
        known = self._size == size
        self._mac.finalize()
        return Compare(self._new(), self._mac.tag if known else None)

    def _new(self) -> AEADEncryptionContext:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        return Cipher(algorithms.AES(self._key), modes.GCM(self._nonce)).encryptor()


class Compare:
    """The second reading; `same` says whether it gave what the first did."""

    def __init__(self, mac: AEADEncryptionContext, wanted: bytes | None) -> None:
        self._mac = mac
        self._wanted = wanted

    def add(self, data: bytes) -> None:
        """Take what comes next."""
        self._mac.authenticate_additional_data(data)

    def same(self) -> bool:
        """Say whether these were the bytes that were sent; once, at the end."""
        self._mac.finalize()
        # Nobody else learns a tag, so nothing can be learnt from how long it takes to compare.
        return self._mac.tag == self._wanted
