"""The source's half of the claims: one table per content, kept while somebody fetches it."""

from __future__ import annotations

import itertools
from typing import Any

from cached.errors import UsageError
from cached.replication.partition import ClaimTable


class ClaimDesk:
    """Answers claims, see `cached.replication.partition`; time comes with each call."""

    def __init__(self) -> None:
        self._tables: dict[str, ClaimTable] = {}

    def idle(self, now: float) -> bool:
        """Return whether nobody claims anything."""
        for content in [key for key, table in self._tables.items() if table.idle(now)]:
            del self._tables[content]
        return not self._tables

    def members(self, content: str, most: int) -> list[str]:
        """Return some of those who claim a content's pieces, `most` at most."""
        table = self._tables.get(content)
        return list(itertools.islice(table.members, most)) if table is not None else []

    def claim(self, node_id: str, body: dict[str, Any], *, pieces: int, now: float) -> dict[str, Any]:
        """Answer one `swarm.claim` for a content of so many pieces; raise `UsageError` for a bad one."""
        self.idle(now)
        try:
            content, count, stalled = str(body["content"]), int(body["count"]), bool(body["stalled"])
            wanted, pending = int(body["wanted"], 16), int(body["pending"], 16)
            have, stuck = int(body.get("have", "0"), 16), int(body.get("stuck", "0"), 16)
        except (KeyError, TypeError, ValueError):
            raise UsageError("a claim needs content, wanted, pending, count and stalled") from None
        table = self._tables.get(content)
        if table is None or table.pieces != pieces:
            table = self._tables[content] = ClaimTable(pieces)
        grant = table.claim(
            node_id,
            wanted=max(wanted, 0),
            pending=max(pending, 0),
            have=max(have, 0),
            stuck=max(stuck, 0),
            count=count,
            stalled=stalled,
            now=now,
        )
        return {"pieces": list(grant.pieces), "unclaimed": grant.unclaimed}
