"""What callers are shown: sets, replicas and nodes as this node knows them now."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal

from cached import wire
from cached.leases.deadline import Deadline
from cached.matching.ads import plain
from cached.node import announce
from cached.node.access import may_see, offered
from cached.node.caller import Caller
from cached.node.node import Node
from cached.node.shelf import Known
from cached.peers.records import HolderEntry, Holding, NodeEntry
from cached.sets.set import SetRecord
from cached.speed import seconds_left
from cached.units import format_duration, rfc3339

NOTHING: Mapping[str, Holding] = MappingProxyType({})


def node_names(node: Node, ids: Iterable[str]) -> dict[str, str]:
    """Return what nodes are called, by id; of one that is not known, the beginning of its id."""
    names = {entry.record.id: entry.record.name for entry in node.directory.nodes()}
    return {one: names.get(one, one[:12]) for one in ids}


def nodes_away(node: Node) -> dict[str, str]:
    """Return the nodes that are known and not seen, by name, with words for whoever wanted something of all nodes."""
    away = [entry for entry in node.directory.nodes() if not entry.alive]
    return {
        entry.record.name: f"not seen for {format_duration(entry.age)}: do it once more when it is back"
        for entry in away
    }


def set_view(node: Node, known: Known, told: Mapping[str, Holding] = NOTHING) -> wire.SetView:
    """Return a set with the lease on this node and all replicas that the directory knows; `told` as `replica_views`."""
    record = known.record
    return wire.SetView(
        name=record.name,
        owner=record.owner,
        id=record.id,
        content=record.content,
        revision=record.revision,
        bytes=record.bytes,
        files=record.files,
        state="UPLOADING" if record.id in node.uploads and record.status == "live" else state_of(record),
        requirements=record.requirements,
        methods=record.methods,
        share=record.share,
        tier=record.tier,
        replicas_wanted=record.replicas,
        originator=record.originator_name or record.originator,
        lease=lease_view(node, known),
        replicas=replica_views(node, known, told),
        scope=record.scope,
        origin=record.origin,
        upload=upload_view(node, known),
    )


def upload_view(node: Node, known: Known) -> wire.UploadView | None:
    """Return how far this node has brought a set to the origin; None when it does not bring it there."""
    upload = node.uploads.get(known.record.id)
    if upload is None or known.record.status != "live":
        return None
    return wire.UploadView(
        bytes_present=upload.bytes_present,
        bytes_wanted=known.record.bytes,
        files_done=len(upload.done.objects),
        reason="" if upload.error is None else upload.error.message,
        retry_in_seconds=None
        if upload.retry_at is None
        else round(max(0.0, upload.retry_at - time.monotonic()), 1),
    )


def state_of(record: SetRecord) -> Literal["COMMITTED", "WITHDRAWN"]:
    """Return the state of a set that is not deleted, as the contracts name it."""
    return "COMMITTED" if record.status == "live" else "WITHDRAWN"


def lease_view(node: Node, known: Known) -> wire.LeaseView | None:
    """Return this node's grant, or None when it holds no replica."""
    replica = node.shelf.replicas.get(known.record.id)
    if replica is None or replica.state != "COMMITTED":
        return None
    return as_lease(node, replica.grant)


def as_lease(node: Node, end: Deadline) -> wire.LeaseView:
    """Return a deadline as people and programs read it."""
    left = node.left(end)
    return wire.LeaseView(expires_at=rfc3339(node.now().wall + left), seconds_left=round(left, 3))


def replica_views(node: Node, known: Known, told: Mapping[str, Holding] = NOTHING) -> list[wire.ReplicaView]:
    """Return every replica of a set that is known here, this node's own first.

    `told` is what nodes that receive it have just said themselves, by node id (`cached.node.watching`).
    """
    others = [
        replica_view(_newest(entry, told), known.record)
        for entry in node.holders(known.record.id)
        if entry.node.record.id != node.id
    ]
    row = node.shelf.replicas.get(known.record.id)
    if row is None:
        return others
    here = node.directory.nodes()[0]
    mine = HolderEntry(node=here, holding=announce.holding(node, row))
    return [replica_view(mine, known.record), *others]


def _newest(entry: HolderEntry, told: Mapping[str, Holding]) -> HolderEntry:
    newer = told.get(entry.node.record.id)
    coming = entry.holding.state in ("REQUESTED", "TRANSFERRING")
    if newer is None or not coming or newer.set_id != entry.holding.set_id:
        return entry
    return HolderEntry(node=entry.node, holding=newer)


def replica_view(entry: HolderEntry, record: SetRecord) -> wire.ReplicaView:
    """Return one holder's copy; a holder that does not answer any more says so."""
    holding, there = entry.holding, entry.node
    left = max(0.0, holding.lease_seconds_left)
    rate = holding.bytes_per_second if there.alive and holding.state == "TRANSFERRING" else 0.0
    expired = holding.state == "COMMITTED" and left <= 0
    return wire.ReplicaView(
        node=there.record.name,
        host=there.record.host,
        state="EXPIRED" if expired else holding.state,
        tier=holding.tier,
        bytes_present=holding.bytes_present,
        lease_seconds_left=round(left, 3),
        reason=holding.reason if there.alive else f"node not seen for {there.age:.0f} s",
        volatile=holding.volatile,
        node_id=there.record.id,
        alive=there.alive,
        bytes_per_second=rate or None,
        seconds_left=seconds_left(holding.bytes_present, record.bytes, rate),
    )


def node_view(entry: NodeEntry) -> wire.NodeView:
    """Return one node of the directory."""
    record = entry.record
    return wire.NodeView(
        name=record.name,
        id=record.id,
        host=record.host,
        address=record.address,
        alive=entry.alive,
        capacity_bytes=record.capacity_bytes,
        free_bytes=record.free_bytes,
        sets=sum(1 for holding in record.replicas if holding.state == "COMMITTED"),
        attributes=plain(record.ad),
        age_seconds=round(entry.age, 3),
    )


def visible(node: Node, caller: Caller) -> list[Known]:
    """Return the sets that the caller may know of, newest name order, deleted ones left out."""
    found = [
        known
        for known in node.shelf.known.values()
        if may_see(caller, known.record) and offered(node.shelf, known)
    ]
    return sorted(found, key=lambda known: (known.record.name, known.record.owner, known.record.id))
