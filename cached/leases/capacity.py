"""Space: how many physical bytes a tier has, holds and can still promise. Reserved before a byte is written.

    reserve -> commit (what was written) or release -> go (being deleted, or deleted but open) -> gone

Invariant: what is reserved, committed and going never exceeds the capacity, and reservations never reach into
what the partition keeps free, unless others fill the partition or the capacity is lowered; then nothing can
be reserved.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from cached.errors import NoSpace
from cached.sets.manifest import Manifest

#: A file takes whole blocks of so many bytes.
BLOCK = 4096
#: What an entry takes besides its bytes, at most: inode, name, its lines in manifest and mtimes.
ENTRY = 4096
#: What a content takes whatever is in it: its directories, manifest, records.
CONTENT = 64 * 1024
#: Bytes of file for each byte of stored digests: 32 for 16 KiB are its leaves, 32 for 64 KiB the coarse ones.
_LEAF_SHARE = 409


class Space(msgspec.Struct, frozen=True, kw_only=True):
    """The physical bytes of one tier; every change returns a new value."""

    #: Configured size.
    capacity: int
    #: Bytes of the partition that stay free whatever is asked.
    floor: int = 0
    #: What the partition has free, less what is reserved and not written yet.
    partition_free: int
    reserved: int = 0
    committed: int = 0
    #: Being deleted, or deleted but open.
    going: int = 0

    def used(self) -> int:
        """Return the bytes that count against the capacity."""
        return self.reserved + self.committed + self.going

    def limit(self) -> int:
        """Return the bytes that the tier may use in all: the capacity, or what the partition allows."""
        return max(0, min(self.capacity, self.used() + self.partition_free - self.floor))

    def free(self) -> int:
        """Return the bytes that can be reserved now."""
        return max(0, self.limit() - self.used())

    def reserve(self, size: int) -> Space:
        """Set bytes aside. Raises `NoSpace`, whose details say how many there are."""
        if size > self.free():
            raise NoSpace(
                f"{size} bytes are needed, {self.free()} are free",
                hint="delete sets, wait for leases to end, or raise the node's capacity",
                bytes_needed=size,
                bytes_free=self.free(),
            )
        return replace(self, reserved=self.reserved + size, partition_free=self.partition_free - size)

    def release(self, size: int) -> Space:
        """Give a reservation back, nothing having been written."""
        assert 0 <= size <= self.reserved, "released more than is reserved"
        return replace(self, reserved=self.reserved - size, partition_free=self.partition_free + size)

    def commit(self, size: int, written: int) -> Space:
        """Turn a reservation into what was really written, which is not more."""
        assert 0 <= written <= size <= self.reserved, "wrote more than was reserved"
        return replace(
            self,
            reserved=self.reserved - size,
            committed=self.committed + written,
            partition_free=self.partition_free + size - written,
        )

    def go(self, size: int) -> Space:
        """Begin to delete committed bytes; they count until `gone`."""
        assert 0 <= size <= self.committed, "deleted more than is committed"
        return replace(self, committed=self.committed - size, going=self.going + size)

    def gone(self, size: int) -> Space:
        """Return the bytes whose last reader and name are gone."""
        assert 0 <= size <= self.going, "returned more than was going"
        return replace(self, going=self.going - size, partition_free=self.partition_free + size)


def physical(manifest: Manifest) -> int:
    """Return the bytes that a content takes on the partition, its metadata included."""
    sizes = [entry.size for entry in manifest.files()]
    blocks = sum([-(-size // BLOCK) for size in sizes])
    leaves = sum([-(-size // _LEAF_SHARE) for size in sizes])
    return CONTENT + len(manifest.entries) * ENTRY + blocks * BLOCK + leaves


def on_partition(size: int) -> int:
    """Return the bytes of the blocks that a file of `size` bytes takes."""
    return -(-size // BLOCK) * BLOCK


def estimate(total_bytes: int, total_files: int) -> int:
    """Return the bytes to reserve for a content of which only the sums are known.

    Never below `physical` while directories and links are not more than the regular files.
    """
    per_file = 2 * ENTRY + BLOCK + _leaves(1)
    return CONTENT + total_bytes + _leaves(total_bytes) + total_files * per_file


def _leaves(size: int) -> int:
    return -(-size // _LEAF_SHARE)
