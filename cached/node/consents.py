"""To whom this node has agreed to send what: in memory, renewed by use, taken back when the bytes go."""

from __future__ import annotations

import time

#: Seconds for which a sender's consent to one peer and content lasts without being renewed.
LASTS = 900.0


class Consents:
    """Which peer may have which content from here; in memory, for one daemon's life."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, str], float] = {}

    def give(self, peer: str, content: str) -> None:
        """Let a peer have a content for a while."""
        now = time.monotonic()
        if len(self._until) > 10_000:
            self._until = {key: until for key, until in self._until.items() if until > now}
        self._until[(peer, content)] = now + LASTS

    def allowed(self, peer: str, content: str) -> bool:
        """Tell whether the peer may have the content now; asking renews the consent."""
        now = time.monotonic()
        if self._until.get((peer, content), 0.0) < now:
            return False
        self._until[(peer, content)] = now + LASTS
        return True

    def withdraw(self, content: str) -> None:
        """Take back every consent to a content."""
        for key in [key for key in self._until if key[1] == content]:
            del self._until[key]
