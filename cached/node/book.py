"""The book of set records: what this node has heard, what it passes on, and what it does when a record changes."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from cached import faults
from cached.critical import to_the_end
from cached.errors import CachedError, NotFound
from cached.node import consent, retire
from cached.node.node import Node
from cached.node.shelf import Changes, Known
from cached.peers.records import digest
from cached.sets.bounds import MAX_SECONDS
from cached.sets.set import SetRecord, SignedRecord, newer

BOOK_TAKEN = faults.declare("book.taken")

#: Tombstones are remembered for the longest lease and this much more, in seconds.
TOMBSTONE_EXTRA = 30 * 86_400


class Book:
    """The shelf's records as gossip sees them (`cached.peers.records.RecordBook`)."""

    def __init__(self) -> None:
        self._node: Node | None = None
        self._digests: dict[str, tuple[int, str]] = {}

    def bind(self, node: Node) -> None:
        """Connect the book with its node, once; the directory is made before the node is."""
        self._node = node
        for known in node.shelf.known.values():
            self._note(known)
        node.shelf.watchers.append(self._touched)

    def known(self) -> Mapping[str, tuple[int, str]]:
        """Return set id -> (revision, digest of the record)."""
        return self._digests

    def give(self, set_ids: list[str]) -> list[SignedRecord]:
        """Return the records asked for, as far as they are known, aged as of now."""
        node = self._bound()
        now = node.now()
        return [node.shelf.known[set_id].aged(now) for set_id in set_ids if set_id in node.shelf.known]

    async def take(self, records: list[SignedRecord], from_node: str) -> None:
        """Keep newer records; carry out deletions before anything else is said about the set."""
        for signed in records:
            try:
                await learn(self._bound(), signed, verified=True)
            except CachedError as error:
                self._bound().counters.note("record.refused", error.message, source=from_node[:8])

    def _touched(self, set_ids: frozenset[str]) -> None:
        node = self._bound()
        for set_id in set_ids:
            known = node.shelf.known.get(set_id)
            if known is None:
                self._digests.pop(set_id, None)
            else:
                self._note(known)

    def _note(self, known: Known) -> None:
        self._digests[known.record.id] = (known.record.revision, digest(known.signed))

    def _bound(self) -> Node:
        assert self._node is not None, "the book is used before it is bound"
        return self._node


async def learn(node: Node, signed: SignedRecord, *, verified: bool = False) -> Known:
    """Take in a record from another node and return what holds now. Raises `IntegrityFailed` or
    `Forbidden`.
    """
    if not verified:
        node.identity.verify(signed)
    signed = _bounded(signed)
    record = signed.record()
    async with node.locks(f"record {record.id}"):
        present = node.shelf.known.get(record.id)
        if present is not None:
            _check_same_set(present.record, record)
            if newer(present.signed, signed).payload == present.signed.payload:
                return present
        known = heard(node, signed, present)
        await keep(node, known)
    faults.point(BOOK_TAKEN)
    return known


def news(node: Node, signed: SignedRecord) -> Known | None:
    """Return what a record from another node tells of a set that is to come here, to be kept with the promise.

    None for what is no news, tells of an end, or of a set that is here: that is learned. Raises as `learn`.
    """
    node.identity.verify(signed)
    known = heard(node, _bounded(signed), node.shelf.known.get(signed.record().id))
    if known.record.status != "live" or known.record.id in node.shelf.replicas:
        return None
    return known if newest(node, known)[1] else None


def newest(node: Node, known: Known) -> tuple[Known, bool]:
    """Return the revision of a set that holds now, and whether it is one that is still to be kept. Raises `NotFound`
    for what is no revision of the set of that id.
    """
    present = node.shelf.known.get(known.record.id)
    if present is None:
        return known, True
    _check_same_set(present.record, known.record)
    if newer(present.signed, known.signed).payload == present.signed.payload:
        return present, False
    return known.lasting(node.later(present.lease, known.lease)), True


def taken(node: Node, before: Known | None, known: Known) -> None:
    """Do what a revision of a live set asks for that has just been kept, in place of `before`, and is not here yet."""
    _told_again(node, before, known)
    node.stirred.set(known.record.id)
    faults.point(BOOK_TAKEN)


def _told_again(node: Node, before: Known | None, known: Known) -> None:
    if before is not None and before.record.share == "public" != known.record.share:
        node.consents.withdraw(known.record.content)  # whoever may still have it asks again
    node.rejections.forget(known.record.id)


def _bounded(signed: SignedRecord) -> SignedRecord:
    return msgspec.structs.replace(signed, age_seconds=min(max(signed.age_seconds, 0.0), MAX_SECONDS))


def heard(node: Node, signed: SignedRecord, present: Known | None) -> Known:
    """Return the value to keep for a new revision: the set's lease never gets shorter by one."""
    fresh = Known.heard(signed, node.now(), local=present.local if present else False)
    if fresh.record.status == "deleted":
        return fresh.lasting(node.after(node.config.policy.max_lease + TOMBSTONE_EXTRA))
    if present is not None:
        return fresh.lasting(node.later(present.lease, fresh.lease))
    return fresh


async def keep(node: Node, known: Known) -> None:
    """Make a revision durable, then do what it asks: a deleted set goes, a held one keeps its record beside its
    bytes.
    """
    await to_the_end(_keep(node, known))


async def _keep(node: Node, known: Known) -> None:
    before = node.shelf.known.get(known.record.id)
    await node.shelf.keep(Changes(sets=(known,)))
    _told_again(node, before, known)
    if known.record.status == "deleted":
        await retire.give_up(node, known.record.id)
    elif known.record.id in node.shelf.replicas:
        retire.refresh_record(node, known)
    node.stirred.set(known.record.id)


def revise(node: Node, known: Known, **changes: object) -> Known:
    """Return the next revision of a set, signed by this node. Nothing is kept yet. Raises `Forbidden`."""
    consent.check_speaks(node.identity.domains, known.record.owner, "this node")
    record = known.record
    left = int(node.left(known.lease))
    fresh: SetRecord = msgspec.structs.replace(
        record, revision=record.revision + 1, **{"lease_seconds": left, **changes}
    )
    signed = node.identity.sign(msgspec.json.encode(fresh))
    return heard(node, signed, known)


def _check_same_set(old: SetRecord, new: SetRecord) -> None:
    if (old.content, old.owner) != (new.content, new.owner):
        raise NotFound("a record with another content or owner came under the id of a known set")
