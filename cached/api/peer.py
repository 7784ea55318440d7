"""What peers may ask this node: every call and stream of the control port, bound to the verb that answers it.

A peer is a member of the cluster, proven by its certificate. It speaks for the users of its domains, and it is
trusted with nothing about bytes: what it sends is checked, what it wants is matched again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from cached.errors import Forbidden, NotFound, UsageError
from cached.node import book, meeting, metadata, offer, pooltable, replicate, revise, sources, watching
from cached.node.joined import Joined
from cached.node.node import Node
from cached.node.trust import trusted_with
from cached.peers.link import Writer
from cached.peers.records import Peer
from cached.replication import serving
from cached.replication.reading import Ask
from cached.sets.set import SignedRecord

_Body = TypeVar("_Body", bound=msgspec.Struct)


class WantedSet(msgspec.Struct, frozen=True, kw_only=True):
    """A set, and the ad of the node that wants it."""

    set: str
    ad: dict[str, Any]


class Introduction(WantedSet, frozen=True, kw_only=True):
    """A node that wants a set, and how it gives the set itself where it fetches it."""

    giving: Joined | None = None


class Push(msgspec.Struct, frozen=True, kw_only=True):
    """A set, and the node that it is to be offered to."""

    set: str
    to: str


class OneSet(msgspec.Struct, frozen=True, kw_only=True):
    """A set."""

    set: str


class Learned(msgspec.Struct, frozen=True, kw_only=True):
    """A set record that the sender thinks this node should have."""

    record: SignedRecord


class Extended(msgspec.Struct, frozen=True, kw_only=True):
    """A new revision, and the lease that its owner asks every holder for."""

    record: SignedRecord
    seconds: int


class Doubt(msgspec.Struct, frozen=True, kw_only=True):
    """A content of which the sender has received bytes that do not match."""

    content: str


class PeerApi:
    """Answers peers in the name of one node."""

    def __init__(self, node: Node, *, doubted: Callable[[Peer, str], Awaitable[None]] | None = None) -> None:
        """`doubted(peer, content)` hears of wrong bytes that a peer has received from here."""
        self._node = node
        self._doubted = doubted

    def bind(self) -> None:
        """Make every call and stream known to the link."""
        link = self._node.link
        link.handle("offer.consider", self._consider)
        link.handle("offer.request", self._request)
        link.handle("offer.push", self._push)
        link.handle("source.join", self._join)
        link.handle("source.doubt", self._doubt)
        link.handle("set.learn", self._learn)
        link.handle("set.extend", self._extend)
        link.handle("drive.refusals", self._refusals)
        link.handle(watching.METHOD, self._progress)
        link.handle("origin.share", self._share)
        link.stream(metadata.STREAM, self._metadata)
        link.stream(serving.STREAM, self._node.direct_server.serve)
        for method, handler in self._node.swarm.rpc_handlers().items():
            link.handle(method, handler)

    async def _consider(self, peer: Peer, body: dict[str, Any]) -> Any:
        answer = await offer.consider(self._node, peer, _read(body, offer.Offer))
        return msgspec.to_builtins(answer)

    async def _request(self, peer: Peer, body: dict[str, Any]) -> Any:
        wanted = _read(body, WantedSet)
        return msgspec.to_builtins(await offer.requested(self._node, peer, wanted.set, wanted.ad))

    async def _push(self, peer: Peer, body: dict[str, Any]) -> Any:
        push = _read(body, Push)
        await replicate.serve_push(self._node, peer, push.set, push.to)
        return {}

    async def _join(self, peer: Peer, body: dict[str, Any]) -> Any:
        wanted = _read(body, Introduction)
        answer = await sources.join(self._node, peer, wanted.set, wanted.ad)
        if wanted.giving is not None:
            meeting.introduced(self._node, peer, wanted.set, wanted.giving)
        return msgspec.to_builtins(answer)

    async def _doubt(self, peer: Peer, body: dict[str, Any]) -> Any:
        doubt = _read(body, Doubt)
        if self._doubted is not None:
            await self._doubted(peer, doubt.content)
        return {}

    async def _learn(self, _peer: Peer, body: dict[str, Any]) -> Any:
        known = await book.learn(self._node, _read(body, Learned).record)
        return {"revision": known.record.revision}

    async def _extend(self, peer: Peer, body: dict[str, Any]) -> Any:
        wish = _read(body, Extended)
        return msgspec.to_builtins(await revise.serve_extend(self._node, peer, wish.record, wish.seconds))

    async def _refusals(self, peer: Peer, body: dict[str, Any]) -> Any:
        known = self._node.shelf.known.get(_read(body, OneSet).set)
        if known is None or not trusted_with(peer, known):
            raise Forbidden("only nodes that may hold the set are told who refused it")
        found = self._node.rejections.of(known.record.id)
        return {
            "refusals": {node_id: one.reason for node_id, one in found.items()},
            "failed": [node_id for node_id, one in found.items() if one.failed],
        }

    async def _progress(self, peer: Peer, body: dict[str, Any]) -> Any:
        set_id = _read(body, OneSet).set
        known, found = self._node.shelf.known.get(set_id), watching.answer(self._node, set_id)
        if known is None or found is None or not trusted_with(peer, known):
            raise NotFound("this node does not hold that set")
        return msgspec.to_builtins(found)

    async def _share(self, peer: Peer, body: dict[str, Any]) -> Any:
        return msgspec.to_builtins(await pooltable.share(self._node, peer, _read(body, Ask)))

    async def _metadata(self, peer: Peer, query: dict[str, Any], writer: Writer) -> None:
        await metadata.serve(self._node, peer, query, writer)


def _read(body: dict[str, Any], kind: type[_Body]) -> _Body:
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"the request is not well formed: {error}") from error
