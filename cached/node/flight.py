"""A transfer under way on this node, as everybody here may look at it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from cached.errors import CachedError
from cached.node.joined import Enclosed
from cached.replication.transfer import Progress
from cached.sets.manifest import Manifest
from cached.speed import Speed
from cached.storage.leafmaker import LeafMaker
from cached.storage.links import NOTHING, Linked
from cached.storage.writeback import Writeback


@dataclass(kw_only=True)
class Flight:
    """One transfer under way on this node."""

    set_id: str
    content: str
    txid: str
    receivers: int = 1
    piece_size: int = 0
    progress: Progress = field(default_factory=Progress)
    #: Set once it has ended, well or not.
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    error: CachedError | None = None
    #: What came with the offer.
    enclosed: Enclosed | None = None
    #: Nothing has been tried yet: none of its bytes are in its staging area.
    fresh: bool = False
    #: What is to come, once that lies in its staging area: others may ask for it here.
    manifest: Manifest | None = None
    #: What of it lies here already, in other contents, and is linked into its staging area.
    linked: Linked = NOTHING
    #: Makes its leaves, where only coarse digests have come.
    maker: LeafMaker | None = None
    #: Name of the method at work.
    method: str = ""
    speed: Speed = field(default_factory=Speed)
    #: When the set had been accepted, by the monotonic clock.
    began: float = field(default_factory=time.monotonic)
    #: Files that were made whole, with their final mode and time, by the way that is taken now.
    made: set[str] = field(default_factory=set)
    #: Where very many files come: what goes to the device while they do.
    writeback: Writeback | None = None

    def rate(self) -> float:
        """Return the bytes per second that it receives of late."""
        now = asyncio.get_running_loop().time()
        return round(self.speed.look(now, sum(self.progress.by_source.values())), 1)

    def written(self) -> None:
        """Wait until what was written back early is on the device; raises the `OSError` that was met. Blocks."""
        if self.writeback is not None:
            self.writeback.end()

    def close(self) -> None:
        """Give back what the transfer held. Blocks."""
        if self.maker is not None:
            self.maker.close()
        if self.writeback is not None:
            self.writeback.close()
