"""What peers may ask this node about objects: parts of copies, news of changes, and what users wrote for a scope.

A peer has asked Cloud Storage for its user before it asks here; it is believed for the users of its domains alone.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cached.addresses import bucket_name, object_name
from cached.errors import Forbidden, UsageError
from cached.node import scopes
from cached.node.node import Node
from cached.node.trust import domain_of
from cached.objects import neighbours
from cached.objects.clear import clear
from cached.objects.news import heard
from cached.peers.link import Writer
from cached.peers.records import Peer
from cached.sets.names import check_owner, check_scope
from cached.wire import convert

#: Largest part that anybody may speak of, in bytes.
_MOST_BLOCK = 1 << 30


class PeerObjects:
    """Answers peers about objects in the name of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def bind(self) -> None:
        """Make every call and stream known to the link."""
        link = self._node.link
        link.handle(neighbours.BLOCK, self._block)
        link.handle(neighbours.GIVE, self._give)
        link.handle(neighbours.RENEW, self._renew)
        link.handle(neighbours.CHANGED, self._changed)
        link.handle(neighbours.CLEAR, self._clear)
        link.handle(scopes.SCOPED, self._scoped)
        link.handle(scopes.SETTLED, self._settled)
        link.stream(neighbours.PART, self._part)

    async def _block(self, peer: Peer, body: dict[str, Any]) -> Any:
        asked = convert(body, neighbours.Asked)
        _speaks_for(peer, asked.user)
        _check(peer, asked.part)
        return msgspec.to_builtins(await self._node.objects.homes.ask(peer.node_id, asked))

    async def _give(self, peer: Peer, body: dict[str, Any]) -> Any:
        given = convert(body, neighbours.Given)
        _speaks_for(peer, given.user)
        check_scope(given.scope)
        _check(peer, given.part)
        await self._node.objects.homes.give(peer.node_id, given)
        return {}

    async def _renew(self, peer: Peer, body: dict[str, Any]) -> Any:
        await self._node.objects.homes.renew(peer.node_id, convert(body, neighbours.Renewed))
        return {}

    async def _changed(self, peer: Peer, body: dict[str, Any]) -> Any:
        news = convert(body, neighbours.Changed)
        _check_object(news.bucket, news.name, news.generation)
        await heard(self._node.objects, peer.node_id, news)
        return {}

    async def _clear(self, peer: Peer, body: dict[str, Any]) -> Any:
        wish = convert(body, neighbours.Clear)
        _speaks_for(peer, wish.user)
        check_scope(wish.scope)
        if wish.bucket:
            bucket_name(wish.bucket)
        if wish.prefix:
            object_name(wish.prefix)
        done = await clear(self._node.objects, wish)
        if done.entries and not wish.dry_run:
            words = f"{done.entries} copies, as another node asks"
            self._node.counters.note("objects.cleared_for_peer", words, user=wish.user, node=peer.node_id)
        return msgspec.to_builtins(done)

    async def _scoped(self, peer: Peer, body: dict[str, Any]) -> Any:
        asked = convert(body, scopes.Scope)
        _speaks_for(peer, asked.user)
        check_scope(asked.scope)
        items = await scopes.known(self._node, asked.user, asked.scope, asked.after)
        return {"items": msgspec.to_builtins(items)}

    async def _settled(self, peer: Peer, body: dict[str, Any]) -> Any:
        done = convert(body, scopes.Settled)
        _speaks_for(peer, done.user)
        check_scope(done.scope)
        await scopes.settle(self._node, done.user, done.scope, done.objects, done.generations)
        return {}

    async def _part(self, peer: Peer, query: dict[str, Any], writer: Writer) -> None:
        wanted = convert(query, neighbours.PartWanted)
        _speaks_for(peer, wanted.user)
        _check(peer, wanted.part)
        await self._node.objects.homes.send(wanted, writer)


def _speaks_for(peer: Peer, user: str) -> None:
    if domain_of(user) not in peer.domains:
        raise Forbidden("your certificate does not let you speak for that user")
    check_owner(user)


def _check(peer: Peer, part: neighbours.Part) -> None:
    """Raise `UsageError` unless it can be a part of an object, `Forbidden` when it belongs to somebody else's user."""
    if part.key.owner:
        _speaks_for(peer, part.key.owner)
    _check_object(part.key.bucket, part.key.name, part.key.generation)
    if not (0 < part.block <= _MOST_BLOCK and 0 <= part.size < 2**50 and part.index >= 0):
        raise UsageError("that is no part of an object")
    if part.start > part.stop or (part.index and part.start >= part.size):
        raise UsageError("that is no part of that object")


def _check_object(bucket: str, name: str, generation: int) -> None:
    """Raise `UsageError` for what is no object: names are kept, and told to users and in the log."""
    bucket_name(bucket)
    object_name(name)
    if not 0 <= generation < 2**63:
        raise UsageError(f"{generation} is no generation")
