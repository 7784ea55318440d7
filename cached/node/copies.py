"""What a user has in this node's object cache: copies that the user is known to have read or brought here."""

from __future__ import annotations

from cached import wire
from cached.addresses import Address, Prefix
from cached.node.caller import Caller
from cached.node.node import Node
from cached.objects.entry import Entry


def list_copies(node: Node, caller: Caller, prefix: Prefix | None) -> wire.CopyList:
    """Return the caller's copies below a prefix, or all of them, in order of their names; others' are not told of.

    A scope is told of as long as the copy is the caller's alone. Parts of large objects that lie here for the cluster
    are one entry for each object.
    """
    found: dict[tuple[Address, bool], list[Entry]] = {}
    for entry in node.objects.tiers.index:
        if caller.user in entry.users and _below(entry, prefix):
            found.setdefault((entry.key.address, entry.block is None), []).append(entry)
    now = node.objects.wall()
    return wire.CopyList(items=[_view(where, found[where], caller, now) for where in sorted(found)])


def _below(entry: Entry, prefix: Prefix | None) -> bool:
    key = entry.key
    return prefix is None or (key.bucket == prefix.bucket and key.name.startswith(prefix.name))


def _view(where: tuple[Address, bool], entries: list[Entry], caller: Caller, now: float) -> wire.CopyView:
    address, whole = where
    scopes = {entry.scope for entry in entries if entry.users == (caller.user,)}
    return wire.CopyView(
        address=str(address),
        bucket=address.bucket,
        name=address.name,
        generation=address.generation or 0,
        bytes=sum(entry.size for entry in entries),
        whole=whole,
        tiers=sorted({tier for entry in entries for tier in entry.held}),
        age_seconds=round(max(0.0, now - max(entry.used_at(caller.user) for entry in entries)), 3),
        scope=scopes.pop() if len(scopes) == 1 else "",
    )
