"""Space: reserved before a byte is written, so that no tier is ever over-committed and no disk is ever filled.

A reservation is a row in the catalog, an amount in memory, and (on disk, unless it is for few bytes) ballast: blocks
taken at once, so that other daemons and programs on the partition see it too. It ends with `release`, or inside the
transaction that commits what was written (`settle`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import msgspec

from cached.catalog.rows import ReplicaRow, ReservationRow
from cached.catalog.sqlite import Catalog
from cached.critical import to_the_end
from cached.errors import CachedError, NoSpace
from cached.leases import policy
from cached.leases.capacity import Space as Ledger
from cached.node.shelf import Shelf
from cached.sets.set import Tier
from cached.storage.ballast import Ballast
from cached.storage.disk import Store
from cached.storage.tree import physical_bytes

#: Least bytes that stay free on a partition, and the share of it where that is less.
FLOOR_BYTES = 1 << 30
FLOOR_SHARE = 0.02

#: Of so few bytes nothing is set aside on the partition: mostly they are written a moment after they were promised.
#: All such promises together are at most this share of what stays free.
FEW = 2 << 20
ON_PAPER = 1 / 4

#: What of one user is kept from taking the others' space, in words.
_CALLED = {"create": "creations", "replica": "replicas", "memory": "copies in memory", "spool": "uploads"}


class Space:
    """What this node's tiers can still take."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        shelf: Shelf,
        stores: dict[Tier, Store],
        limits: dict[Tier, int],
        quota: int | None,
    ) -> None:
        self._catalog = catalog
        self._shelf = shelf
        self._stores = stores
        self._limits = limits
        self._quota = quota
        self._lock = asyncio.Lock()
        self._reserved: dict[str, ReservationRow] = {}
        self._ballast: dict[str, Ballast] = {}
        #: How much of each reservation is on the partition already: as ballast, or written in its place.
        self._covered: dict[str, int] = {}
        #: Reclaims at least so many bytes of a tier where it may; set by the composition root.
        self.make_room: Callable[[Tier, int], Awaitable[None]] = _no_room
        #: Bytes on the disk tier besides contents and reservations: what swarms keep of small files.
        self.packs = 0
        #: Bytes of a tier that copies of objects take, and what makes some of them go: they are promised to nobody.
        self.evictable: Callable[[Tier], int] = lambda _tier: 0
        self.evict: Callable[[Tier, int], Awaitable[int]] = _nothing
        #: Whether a replica's grant holds: what has expired goes when space is wanted, and counts against no quota.
        self.leased: Callable[[ReplicaRow], bool] = lambda _row: True

    def load(self) -> None:
        """Take over the reservations of transfers that go on after a restart."""
        for row in self._catalog.read_now(lambda tx: tx.reservations()):
            self._reserved[row.txid] = row
            if self._on_paper(row):
                continue
            with contextlib.suppress(CachedError):  # others filled the partition: the promise stands on paper
                self._keep(row.txid, self._hold(row))

    def capacity(self, tier: Tier) -> int:
        """Return the physical bytes that the tier may use in all."""
        return self.ledger(tier).limit()

    def free(self, tier: Tier) -> int:
        """Return the physical bytes that can be reserved now, without reclaiming anything."""
        return self.ledger(tier).free()

    def above_floor(self, tier: Tier) -> int:
        """Return the bytes that the tier's partition has free beyond what stays free and what is reserved."""
        state = self.ledger(tier)
        return max(0, state.partition_free - state.floor)

    def left_over(self, tier: Tier) -> int:
        """Return the bytes that copies of objects may take besides those they have: what sets have no use for."""
        state = self.ledger(tier)
        within = self._limits[tier] - state.used() - self.evictable(tier)
        return max(0, min(within, state.partition_free - state.floor))

    async def _displace(self, tier: Tier, wanted: int) -> None:
        """Have copies of objects go that would take the tier beyond its capacity with `wanted` bytes more."""
        excess = self.ledger(tier).used() + wanted + self.evictable(tier) - self._limits[tier]
        if excess > 0:
            await self.evict(tier, excess)

    def reserved(self, tier: Tier) -> int:
        """Return the physical bytes reserved at present."""
        return sum(row.bytes for row in self._reserved.values() if row.tier == tier)

    def logical(self, owner: str) -> int:
        """Return what counts against an owner's quota: leased replicas here, and those on their way."""
        coming = sum(
            row.logical for row in self._reserved.values() if row.owner == owner and row.purpose != "memory"
        )
        rows = [
            row for row in self._shelf.replicas.values() if row.owner == owner and row.state == "COMMITTED"
        ]
        return sum(row.bytes for row in rows if self.leased(row)) + coming

    async def reserve(self, row: ReservationRow, *, fairly: bool = False, write: bool = True) -> None:
        """Set space aside, durably; `fairly`: if what its owner holds for the same purpose leaves enough for others.

        Without `write` the caller writes the row down, in the transaction in which it promises what the space is for:
        a crash before that leaves blocks in a staging area that nothing tells of, and so none.
        Raises `NoSpace`, `QuotaExceeded` or `Busy`; then, or when cancelled, nothing is reserved.
        """
        try:
            await to_the_end(self._reserve(row, fairly=fairly, write=write))
        except asyncio.CancelledError:
            await to_the_end(self.undo(row.txid))
            raise

    async def _reserve(self, row: ReservationRow, *, fairly: bool, write: bool) -> None:
        async with self._lock:
            if fairly:
                self._check_share(row)
            if row.logical:
                policy.quota(self.logical(row.owner), row.logical, self._quota)
            missing = row.bytes - self.free(row.tier)
            if missing > 0:
                await self.make_room(row.tier, missing)
            self._check(row)
            await self._displace(row.tier, row.bytes)
            if write:
                await self._write_down(row)
            self._reserved[row.txid] = row
        if self._on_paper(row):
            return
        try:
            self._keep(row.txid, await asyncio.to_thread(self._hold, row))
        except BaseException:
            await self.undo(row.txid)
            raise

    async def grow(self, txid: str, size: int) -> None:
        """Raise a reservation to `size` bytes when it is below. Raises `NoSpace`; then it stays as it was."""
        await to_the_end(self._grow(txid, size))

    async def _grow(self, txid: str, size: int) -> None:
        async with self._lock:
            row = self._reserved[txid]
            missing = size - row.bytes
            if missing <= 0:
                return
            if missing > self.free(row.tier):
                await self.make_room(row.tier, missing - self.free(row.tier))
            self._check(msgspec.structs.replace(row, bytes=missing))
            await self._displace(row.tier, missing)
            larger = msgspec.structs.replace(row, bytes=size)
            await self._write_down(larger)
            self._reserved[txid] = larger

    def cover(self, txid: str, size: int) -> None:
        """Note that so many bytes of what is reserved lie on the partition already."""
        self._covered[txid] = size

    async def shrink(self, txid: str, size: int) -> None:
        """Lower a reservation to `size` bytes when it is above: less is to be written than was thought."""
        await to_the_end(self._shrink(txid, size))

    async def _shrink(self, txid: str, size: int) -> None:
        async with self._lock:
            row = self._reserved[txid]
            if size >= row.bytes:
                return
            smaller = msgspec.structs.replace(row, bytes=size)
            await self._write_down(smaller)
            self._reserved[txid] = smaller
            self._covered[txid] = min(self._covered.get(txid, 0), size)
            ballast = self._ballast.get(txid)
        if ballast is not None:
            await asyncio.to_thread(ballast.use, row.bytes - size)

    async def name(self, txid: str, content: str) -> None:
        """Write down which content a reservation is for, so that a crash after publishing leaves nothing
        unaccounted.
        """
        async with self._lock:
            row = msgspec.structs.replace(self._reserved[txid], content=content)
            await self._catalog.write(lambda tx: tx.put_reservation(row))
            self._reserved[txid] = row

    def ballast(self, txid: str) -> Ballast | None:
        """Return the blocks held for a reservation, to be used up while its bytes are written."""
        return self._ballast.get(txid)

    async def release(self, txid: str) -> None:
        """End a reservation; nothing happens when there is none."""
        ballast = self._ballast.pop(txid, None)
        if ballast is not None:
            await asyncio.to_thread(ballast.drop)
        row = self._reserved.get(txid)
        if self.settle(txid) and row is not None and _lasts(row):
            await self._catalog.write(lambda tx: tx.delete_reservation(txid))

    async def undo(self, txid: str) -> None:
        """End a reservation that is not to be used; the staging area that held its blocks goes to the trash.

        Nothing happens when there is none.
        """
        row = self._reserved.get(txid)
        if row is None:
            return
        try:
            await asyncio.to_thread(self._stores[row.tier].discard, txid)
        finally:
            await self.release(txid)

    def settle(self, txid: str) -> bool:
        """Forget a reservation whose row has just been deleted in the transaction that committed its bytes."""
        ballast = self._ballast.pop(txid, None)
        self._covered.pop(txid, None)
        if ballast is not None:
            ballast.drop()
        return self._reserved.pop(txid, None) is not None

    async def _write_down(self, row: ReservationRow) -> None:
        if _lasts(row):
            await self._catalog.write(lambda tx: tx.put_reservation(row))

    def _check_share(self, row: ReservationRow) -> None:
        whose = (row.tier, row.purpose, row.owner)
        others = [o.bytes for o in self._reserved.values() if (o.tier, o.purpose, o.owner) == whose]
        policy.share(others, row.bytes, self._obtainable(row.tier) if others else 0, _CALLED[row.purpose])

    def _obtainable(self, tier: Tier) -> int:
        """Return the physical bytes that are free, or are given back as soon as they are wanted."""
        leased = {row.content for row in self._shelf.replicas.values() if self.leased(row)}
        contents = [
            row for row in self._shelf.contents.values() if row.tier == tier and row.state == "STABLE"
        ]
        kept = {row.family for row in contents if row.family and row.content in leased}
        back = [row for row in contents if row.content not in leased and row.family not in kept]
        return max(0, self.free(tier)) + sum(row.physical for row in back)

    def _check(self, row: ReservationRow) -> None:
        free = self.free(row.tier)
        if row.bytes > free:
            raise NoSpace(
                f"the {row.tier} tier of this node has {free} bytes free, {row.bytes} are needed",
                hint="delete sets, wait for leases to end, or raise the node's capacity",
                bytes_needed=row.bytes,
                bytes_free=free,
            )

    def _on_paper(self, row: ReservationRow) -> bool:
        """Whether a reservation, which counts already, is to have no blocks."""
        if row.tier != "disk" or not _lasts(row):
            return True
        if row.bytes > FEW:
            return False
        few = (one for one in self._reserved.values() if one.tier == "disk" and one.bytes <= FEW)
        promised = sum(one.bytes for one in few if one.txid not in self._ballast)
        return promised <= self._floor("disk") * ON_PAPER

    def _floor(self, tier: Tier) -> int:
        return min(FLOOR_BYTES, int(self._stores[tier].partition_size() * FLOOR_SHARE))

    def _hold(self, row: ReservationRow) -> tuple[Ballast, int]:
        """Take blocks for what is not written yet; return them, and what of the reservation is on the partition now."""
        with self._stores["disk"].stage(row.txid) as staging:
            place = staging.path / "ballast"
            place.unlink(missing_ok=True)
            there = min(row.bytes, physical_bytes(staging.path))
            ballast = Ballast(place, row.bytes - there)
        return ballast, there + ballast.held

    def _keep(self, txid: str, held: tuple[Ballast, int]) -> None:
        self._ballast[txid], self._covered[txid] = held

    def ledger(self, tier: Tier) -> Ledger:
        """Return what a tier has and is used for, as of now."""
        store = self._stores[tier]
        contents = [row for row in self._shelf.contents.values() if row.tier == tier]
        mine = [row for row in self._reserved.values() if row.tier == tier]
        uncovered = sum(max(0, row.bytes - self._covered.get(row.txid, 0)) for row in mine)
        reserved = sum(row.bytes for row in mine)
        return Ledger(
            capacity=self._limits[tier],
            floor=self._floor(tier),
            partition_free=store.partition_free() - uncovered,
            reserved=reserved,
            committed=sum(row.physical for row in contents if row.state == "STABLE")
            + (self.packs if tier == "disk" else 0),
            going=sum(row.physical for row in contents if row.state == "GOING"),
        )


def _lasts(row: ReservationRow) -> bool:
    """Whether what it is for outlives the daemon: a file without a name does not."""
    return row.purpose != "spool"


async def _nothing(_tier: Tier, _wanted: int) -> int:
    return 0


async def _no_room(_tier: Tier, _wanted: int) -> None:
    return None
