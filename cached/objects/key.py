"""What a copy of an object is a copy of: one generation, so a copy never gets old."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import msgspec

from cached.addresses import Address

#: Stands before what is hashed, so that a digest of something else is never a digest of a key.
_DOMAIN = b"cached object 1\0"


class ObjectKey(msgspec.Struct, frozen=True, order=True):
    """Bucket, name and generation of an object; `owner` only where copies are not shared between users.

    Two keys are equal exactly when their bytes may be exchanged for each other.
    """

    bucket: str
    name: str
    generation: int
    #: User id; empty: the copy is for whoever Cloud Storage lets read the object.
    owner: str = ""

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the key in hex: the name of its file, and what peers call it.

        Every part goes in with its length before it, so no two keys are hashed from the same bytes.
        """
        return _digest(self)

    @property
    def address(self) -> Address:
        """Return the address of the object, pinned to its generation."""
        return Address(self.bucket, self.name, self.generation)


@lru_cache(maxsize=16_384)
def _digest(key: ObjectKey) -> str:
    hashed = hashlib.sha256(_DOMAIN)
    for part in (key.bucket, key.name, str(key.generation), key.owner):
        data = part.encode()
        hashed.update(len(data).to_bytes(8, "big"))
        hashed.update(data)
    return hashed.hexdigest()
