"""Pooltable: the keeper's side of a pool: it answers what members say (`cached.node.pool`), by the rule of
`cached.replication.reading`.
"""

from __future__ import annotations

import asyncio

from cached.errors import Forbidden, UsageError
from cached.node.node import Node
from cached.node.shelf import Known
from cached.node.trust import trusted_with
from cached.peers.records import Peer
from cached.replication.reading import UNKNOWN, Ask, Share, Table, may_be

#: Seconds for which a node that has been answered sends others to the keeper that answered.
SURE = 5.0


async def share(node: Node, peer: Peer, ask: Ask) -> Share:
    """Answer a member of a pool that this node keeps the table of. Raises `Forbidden` or `UsageError`."""
    known = node.shelf.known.get(ask.set)
    if known is not None and not trusted_with(peer, known):
        raise Forbidden("only nodes that may hold the set share the reading of it")
    _check_blocks(known, ask)
    keeper, when = node.keepers.get(ask.content, (node.id, 0.0))
    if keeper != node.id and asyncio.get_running_loop().time() - when < SURE:
        return Share(keeper=keeper)
    return answer(node, peer.node_id, ask)


def _check_blocks(known: Known | None, ask: Ask) -> None:
    """Raise `UsageError` unless the content can have so many blocks: they decide what the table costs."""
    if known is None:
        fits = 0 <= ask.blocks <= UNKNOWN
    else:
        record = known.record
        fits = ask.content == record.content and may_be(ask.blocks, record.bytes, record.files)
    if not fits:
        raise UsageError(f"the set's content does not have {ask.blocks} blocks")


def answer(node: Node, who: str, ask: Ask) -> Share:
    """Answer a member, this node itself included, as the keeper. Raises `UsageError`."""
    now = asyncio.get_running_loop().time()
    for content in [content for content, table in node.tables.items() if table.idle(now)]:
        del node.tables[content]
    table = node.tables.get(ask.content)
    if table is None or table.blocks != ask.blocks:
        table = node.tables[ask.content] = Table(ask.content, ask.blocks)
    try:
        return table.ask(who, ask, now)
    except ValueError:
        raise UsageError("a share of the reading is asked for with blocks of the content, in hex") from None
