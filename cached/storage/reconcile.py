"""Reconciliation at start-up: what the catalog knows against what the directories hold.

`reconcile` is pure: facts in, actions out. Nothing is ever removed that a lost database may have known:
without one, or with an older one, every content is adopted. `node/recover.py` carries the actions out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from cached.storage.survey import DirectoryFacts, FoundContent


class KnownContent(msgspec.Struct, frozen=True, kw_only=True):
    """A content row of the catalog, of the tier that is reconciled."""

    content: str
    state: Literal["COMING", "STABLE", "GOING"]
    bytes: int = 0


class CatalogFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the catalog says about one tier."""

    contents: tuple[KnownContent, ...] = ()
    #: Transaction ids with a reservation.
    reservations: frozenset[str] = frozenset()
    #: Transaction ids of transfers that are resumed, with the content each fetches.
    transfers: dict[str, str] = msgspec.field(default_factory=dict)
    #: The database is new, or older than the store: it does not know what should be here.
    lost: bool = False


class DropIncoming(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Files: discard and empty a staging area that never spoke. Catalog: release its reservation, if any."""

    txid: str


class ReleaseReservation(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Catalog: release a reservation without a staging area."""

    txid: str


class ResumeTransfer(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Caller: verify what `txid` has and go on; `published` when only the commit is missing."""

    txid: str
    content: str
    published: bool = False


class EmptyTrash(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Files: go on deleting."""

    name: str


class FinishGoing(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Files: retire and empty a content whose deletion was decided. Catalog: drop its rows."""

    content: str


class ForgetComing(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Catalog: drop a COMING row of which nothing was published and nothing is resumed."""

    content: str


class Adopt(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Caller: verify the content, then take its recorded sets back under a short lease.

    Without records the bytes are kept all the same: the database is lost, and a peer may know whose they are.
    """

    content: str
    records: tuple[str, ...]


class RemoveOrphan(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Files: retire and empty a content that nothing speaks for. Catalog: drop a COMING row, if any."""

    content: str


class ReportDamaged(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Caller: a promise is broken. Say so loudly, withdraw announcements, repair from peers or the origin."""

    content: str
    #: Whether no bytes are there at all.
    missing: bool
    reason: str


class VerifyLater(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Caller: serve it, and compare it in the background; the survey only had time for a glance."""

    content: str


Action = (
    DropIncoming
    | ReleaseReservation
    | ResumeTransfer
    | EmptyTrash
    | FinishGoing
    | ForgetComing
    | Adopt
    | RemoveOrphan
    | ReportDamaged
    | VerifyLater
)


def reconcile(catalog: CatalogFacts, directory: DirectoryFacts) -> list[Action]:
    """Return what is to be done, in the order to do it: space first, then promises."""
    there = {found.content: found for found in directory.contents}
    return [
        *(EmptyTrash(name=name) for name in directory.trash),
        *_incoming(catalog, directory),
        *_transfers(catalog, there),
        *(action for known in catalog.contents for action in _known(known, catalog, there)),
        *_unknown(catalog, directory.contents),
    ]


def _incoming(catalog: CatalogFacts, directory: DirectoryFacts) -> Iterator[Action]:
    staged = {found.txid for found in directory.incoming}
    for txid in sorted(staged - catalog.transfers.keys()):
        yield DropIncoming(txid=txid)
    for txid in sorted(catalog.reservations - staged - catalog.transfers.keys()):
        yield ReleaseReservation(txid=txid)


def _transfers(catalog: CatalogFacts, there: dict[str, FoundContent]) -> Iterator[Action]:
    for txid, content in sorted(catalog.transfers.items()):
        yield ResumeTransfer(txid=txid, content=content, published=content in there)


def _known(known: KnownContent, catalog: CatalogFacts, there: dict[str, FoundContent]) -> Iterator[Action]:
    found = there.get(known.content)
    if known.state == "GOING":
        yield FinishGoing(content=known.content)
    elif known.state == "STABLE":
        yield from _promised(known, found)
    elif known.content in catalog.transfers.values():
        return
    elif found is None:
        yield ForgetComing(content=known.content)
    else:
        yield from _unspoken(found, keep=catalog.lost)


def _promised(known: KnownContent, found: FoundContent | None) -> Iterator[Action]:
    if found is None:
        yield ReportDamaged(content=known.content, missing=True, reason="its directory is missing")
    elif found.damage:
        yield ReportDamaged(content=known.content, missing=False, reason=found.damage)
    elif not found.compared:
        yield VerifyLater(content=known.content)
    elif found.bytes != known.bytes:
        reason = f"{found.bytes} bytes by its manifest, {known.bytes} by the catalog"
        yield ReportDamaged(content=known.content, missing=False, reason=reason)


def _unknown(catalog: CatalogFacts, contents: Iterable[FoundContent]) -> Iterator[Action]:
    spoken_for = {known.content for known in catalog.contents} | set(catalog.transfers.values())
    for found in contents:
        if found.content not in spoken_for:
            yield from _unspoken(found, keep=catalog.lost)


def _unspoken(found: FoundContent, *, keep: bool) -> Iterator[Action]:
    """Decide over a published content that no STABLE row names."""
    if found.records or keep:
        yield Adopt(content=found.content, records=found.records)
    else:
        yield RemoveOrphan(content=found.content)
