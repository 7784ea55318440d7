"""Begin: a set comes into being, from files handed over, from objects, or from a set that the origin keeps."""

from __future__ import annotations

from cached import wire
from cached.errors import UsageError
from cached.node import create, gather, recreate
from cached.node.caller import Caller
from cached.node.create import Creation
from cached.node.node import Node


async def begin(
    node: Node, caller: Caller, name: str, options: wire.CreateOptions, total_bytes: int, total_files: int
) -> Creation:
    """Begin the kind of creation that the options ask for. Raises as `create`, `gather` and `recreate` say."""
    if not (options.source or options.source_set):
        return await create.begin(node, caller, name, options, total_bytes, total_files)
    if (options.source and options.source_set) or total_bytes or total_files:
        raise UsageError("a set is made of files, of objects, or of a set in the origin: name one of them")
    if options.source_set:
        return await recreate.begin(node, caller, name, options)
    return await gather.begin(node, caller, name, options)
