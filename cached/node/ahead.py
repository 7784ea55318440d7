"""Ahead: what is to be kept in the origin is compared with what lies there before anything changes on this node.

A set that takes the place of another one is brought there first: until the origin has all of it, the name stays with
the old set, whatever fails or dies meanwhile. What was brought counts as written when the set is created once more.
"""

from __future__ import annotations

import asyncio

from cached import faults
from cached.addresses import parse_prefix
from cached.catalog.rows import UploadRow
from cached.errors import CachedError, OriginUnavailable
from cached.node import ledger
from cached.node.commit import Order
from cached.node.node import Node
from cached.node.sending import Sending, Staged, check_free, document_of
from cached.node.unkeep import mark
from cached.node.upload import Done, Upload
from cached.sets.manifest import Manifest
from cached.storage.staging import Staging

AHEAD_BEGUN = faults.declare("ahead.begun")
AHEAD_SENT = faults.declare("ahead.sent")


class Ahead:
    """What of a set goes to the origin before it is committed."""

    def __init__(self, node: Node, order: Order, staging: Staging) -> None:
        self._node, self._order, self._staging = node, order, staging
        self._sent = False
        #: What is on its way there; None before, and when there is nothing to send.
        self.upload: Upload | None = None

    @property
    def sent(self) -> bool:
        """Whether the origin has all of the set."""
        return self._sent

    async def run(self, manifest: Manifest, content: str) -> None:
        """Look whether the set can lie where it is to be kept, and send it if it takes another one's place.

        Raises what keeps it out of there; then nothing has changed on this node. When Cloud Storage does not answer,
        a set that takes nobody's place is committed all the same: it goes there later.
        """
        terms, prefix = self._order.terms, parse_prefix(self._order.terms.origin)
        check_free(manifest)
        existing = self._node.shelf.current(self._order.owner, self._order.name)
        if existing is not None and not (existing.record.content == content and terms.same(existing.record)):
            if terms.replace:
                await self._send(manifest, content)
            return  # else the commit says that the name is taken
        if existing is None or existing.record.origin != terms.origin:
            try:
                await document_of(self._node, prefix, content)
            except OriginUnavailable as error:
                self._node.counters.note("persist.not_looked", error.message)

    async def _send(self, manifest: Manifest, content: str) -> None:
        node, order = self._node, self._order
        row = UploadRow(set_id=order.txid, content=content, target=order.terms.origin)
        self.upload = Upload(row=row, done=Done())

        def charge(size: int) -> None:
            ledger.spent(node, order.owner, order.terms.scope, size, 1)

        faults.point(AHEAD_BEGUN)
        tree = Staged(self._staging)
        marks = mark(order.owner, order.terms.scope)
        prefix = parse_prefix(order.terms.origin)
        sending = Sending(node, self.upload, tree, prefix, marks=marks, charge=charge)
        try:
            places = await sending.run(manifest)
        except CachedError as error:
            node.counters.note("persist.failed", error.message)
            raise _unmoved(order, error) from None
        await asyncio.to_thread(self._staging.put_places, places)
        self._sent = True
        node.counters.add("persist.done")
        faults.point(AHEAD_SENT)


def _unmoved(order: Order, error: CachedError) -> CachedError:
    """Return the error with what it means for the set whose place was to be taken."""
    told = type(error)(
        f"your set {order.name} is as it was: the origin cannot keep what was to take its place: {error.message}",
        hint=error.hint,
    )
    told.details = error.details
    return told
