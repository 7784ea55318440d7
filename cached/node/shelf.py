"""The shelf: what this node knows and holds, in memory, with the catalog as its durable twin.

Every change goes through `Shelf.keep`: one catalog transaction first, then memory. So whatever the shelf shows
survives a crash, and reading it costs no I/O: the hot read path never asks the database.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from cached.catalog.rows import CheckRow, ContentRow, ReplicaRow, SetRow
from cached.catalog.sqlite import Catalog, Tx
from cached.critical import to_the_end
from cached.errors import Busy
from cached.leases import deadline
from cached.leases.deadline import Deadline, Moment
from cached.sets.set import SetRecord, SignedRecord, Tier


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """A set that this node has heard of, with the newest revision of its record."""

    signed: SignedRecord
    record: SetRecord
    #: When the record's age was zero, by this node's clocks.
    base: Moment
    #: Until when the owner wants the set; of a tombstone: until when it is remembered.
    lease: Deadline
    #: Created on this node.
    local: bool

    def aged(self, now: Moment) -> SignedRecord:
        """Return the signed record as it is passed on at `now`."""
        return msgspec.structs.replace(self.signed, age_seconds=deadline.age(self.base, now, now))

    @staticmethod
    def heard(signed: SignedRecord, now: Moment, *, local: bool = False) -> Known:
        """Make the value for a record that has just been verified."""
        record = signed.record()
        base = deadline.before(now, signed.age_seconds)
        return Known(
            signed=msgspec.structs.replace(signed, age_seconds=0.0),
            record=record,
            base=base,
            lease=deadline.after(base, record.lease_seconds),
            local=local,
        )

    def lasting(self, lease: Deadline) -> Known:
        """Return the same set with another end of its lease."""
        return dataclasses.replace(self, lease=lease)

    def row(self) -> SetRow:
        """Return the value as the catalog keeps it."""
        record = self.record
        return SetRow(
            id=record.id,
            name=record.name,
            owner=record.owner,
            content=record.content,
            revision=record.revision,
            status=record.status,
            record=msgspec.msgpack.encode(self.signed),
            age_base=self.base,
            lease=self.lease,
            originator=record.originator,
            local=self.local,
        )

    @staticmethod
    def from_row(row: SetRow) -> Known:
        """Read the value back from the catalog."""
        signed = msgspec.msgpack.decode(row.record, type=SignedRecord)
        return Known(
            signed=signed, record=signed.record(), base=row.age_base, lease=row.lease, local=row.local
        )


#: A replica's row as it is in the transaction -> as it is to be. May raise, which undoes the whole `keep`.
Edit = Callable[[ReplicaRow], ReplicaRow]
#: What is in the transaction -> rows of contents that replace theirs. May raise, which undoes the whole `keep`.
ContentEdit = Callable[[Tx], Iterable[ContentRow]]


@dataclass(kw_only=True)
class Changes:
    """What one `keep` writes; everything in it becomes durable together."""

    sets: tuple[Known, ...] = ()
    contents: tuple[ContentRow, ...] = ()
    #: Changes to rows of contents that others may be changing at the same time; made after `contents`.
    content_edits: tuple[ContentEdit, ...] = ()
    #: Of contents that are here: `Busy` when one is not, or is on its way.
    checks: tuple[CheckRow, ...] = ()
    replicas: tuple[ReplicaRow, ...] = ()
    #: Changes to rows that others may be changing at the same time, by set id: they see what is durable, not what was
    #: read before. `Busy` when the row is gone.
    edits: tuple[tuple[str, Edit], ...] = ()
    drop_replicas: tuple[str, ...] = ()
    drop_contents: tuple[tuple[str, Tier], ...] = ()
    drop_sets: tuple[str, ...] = ()
    #: Further work of the same transaction; raising rolls all of it back.
    also: Callable[[Tx], None] | None = None


@dataclass(kw_only=True)
class Shelf:
    """Known sets, replicas and contents of this node."""

    catalog: Catalog
    known: dict[str, Known] = field(default_factory=dict)
    replicas: dict[str, ReplicaRow] = field(default_factory=dict)
    contents: dict[tuple[str, Tier], ContentRow] = field(default_factory=dict)
    #: What the last verification of each content has found.
    checks: dict[tuple[str, Tier], CheckRow] = field(default_factory=dict)
    #: Of the contents that are damaged: the paths that must not be served.
    withheld: dict[tuple[str, Tier], frozenset[str]] = field(default_factory=dict)
    #: Another number after each change.
    version: int = 0
    _by_name: dict[str, set[str]] = field(default_factory=dict)
    _by_content: dict[str, set[str]] = field(default_factory=dict)
    #: Tells whether another node has a copy of a set, as far as is known; set by the composition root.
    held_elsewhere: Callable[[str], bool] = lambda _set_id: False
    #: Called after each change with the ids of the sets that it touched.
    watchers: list[Callable[[frozenset[str]], None]] = field(default_factory=list)

    def load(self) -> None:
        """Fill memory from the catalog; at start-up, before anything is served."""
        self._apply(
            self.catalog.read_now(
                lambda tx: Changes(
                    sets=tuple(map(Known.from_row, tx.sets())),
                    replicas=tuple(tx.replicas()),
                    contents=tuple(tx.contents()),
                    checks=tuple(tx.checks()),
                )
            )
        )

    async def keep(self, changes: Changes) -> None:
        """Make the changes durable, then visible. Raises what the catalog raises; then nothing has changed.

        Not to be cut in two: a caller that is cancelled meanwhile hears of it once both is done.
        """
        await to_the_end(self._keep(changes))

    async def _keep(self, changes: Changes) -> None:
        replicas, contents = await self.catalog.write(lambda tx: _write(tx, changes))
        changes = dataclasses.replace(
            changes, replicas=(*changes.replicas, *replicas), contents=(*changes.contents, *contents)
        )
        self._apply(changes)
        touched = frozenset(
            [known.record.id for known in changes.sets]
            + [row.set_id for row in changes.replicas]
            + [*changes.drop_replicas, *changes.drop_sets]
        )
        for watcher in self.watchers:
            watcher(touched)

    def named(self, name: str) -> Iterator[Known]:
        """Iterate over the sets of that name, of all owners and states."""
        return (self.known[set_id] for set_id in tuple(self._by_name.get(name, ())))

    def sets_of_content(self, content: str) -> frozenset[str]:
        """Return the ids of the replicas on this node that share a content."""
        return frozenset(self._by_content.get(content, ()))

    def current(self, owner: str, name: str) -> Known | None:
        """Return the set that an owner's name stands for at present."""
        live = [k for k in self.named(name) if k.record.owner == owner and k.record.status == "live"]
        return max(live, key=lambda known: (known.local, known.record.id), default=None)

    def _apply(self, changes: Changes) -> None:
        self.version += 1
        for known in changes.sets:
            self.known[known.record.id] = known
            self._by_name.setdefault(known.record.name, set()).add(known.record.id)
        self._take_contents(changes)
        for row in changes.replicas:
            self.replicas[row.set_id] = row
            self._by_content.setdefault(row.content, set()).add(row.set_id)
        for set_id in changes.drop_replicas:
            self._forget_replica(set_id)
        for key in changes.drop_contents:
            self.contents.pop(key, None)
            self._forget_check(key)
        for set_id in changes.drop_sets:
            gone = self.known.pop(set_id, None)
            if gone is not None:
                _discard(self._by_name, gone.record.name, set_id)

    def _take_contents(self, changes: Changes) -> None:
        for content in changes.contents:
            self.contents[(content.content, content.tier)] = content
            if content.state == "COMING":
                self._forget_check((content.content, content.tier))
        for check in changes.checks:
            self._take_check(check)

    def _take_check(self, check: CheckRow) -> None:
        key = (check.content, check.tier)
        self._forget_check(key)
        self.checks[key] = check
        if check.damaged:
            self.withheld[key] = frozenset(msgspec.json.decode(check.damaged, type=list[str]))

    def _forget_check(self, key: tuple[str, Tier]) -> None:
        self.checks.pop(key, None)
        self.withheld.pop(key, None)

    def _forget_replica(self, set_id: str) -> None:
        row = self.replicas.pop(set_id, None)
        if row is not None:
            _discard(self._by_content, row.content, set_id)


def _discard(index: dict[str, set[str]], key: str, value: str) -> None:
    values = index.get(key)
    if values is not None:
        values.discard(value)
        if not values:
            del index[key]


def _write(tx: Tx, changes: Changes) -> tuple[list[ReplicaRow], list[ContentRow]]:
    """Write it all; return the rows of replicas and contents that were edited."""
    for known in changes.sets:
        tx.put_set(known.row())
    _put_contents(tx, changes.contents)
    contents = [row for edit in changes.content_edits for row in _put_contents(tx, edit(tx))]
    for check in changes.checks:
        _check(tx, check)
    for replica in changes.replicas:
        tx.put_replica(replica)
    edited = [_edit(tx, set_id, edit) for set_id, edit in changes.edits]
    _delete_all(tx.delete_replica, changes.drop_replicas)
    for content_id, tier in changes.drop_contents:
        tx.delete_content(content_id, tier)
    _delete_all(tx.delete_set, changes.drop_sets)
    if changes.also is not None:
        changes.also(tx)
    return edited, contents


def _put_contents(tx: Tx, rows: Iterable[ContentRow]) -> list[ContentRow]:
    put = list(rows)
    for row in put:
        tx.put_content(row)
        if row.state == "COMING":
            tx.delete_check(row.content, row.tier)
    return put


def _check(tx: Tx, check: CheckRow) -> None:
    row = tx.content(check.content, check.tier)
    if row is None or row.state != "STABLE":
        raise Busy("the content is not here, or is just going")
    tx.put_check(check)


def _edit(tx: Tx, set_id: str, edit: Edit) -> ReplicaRow:
    row = tx.replica(set_id)
    if row is None:
        raise Busy("the replica has just gone", hint="try again")
    fresh = edit(row)
    tx.put_replica(fresh)
    return fresh


def _delete_all(delete: Callable[[str], None], ids: Iterable[str]) -> None:
    for set_id in ids:
        delete(set_id)
