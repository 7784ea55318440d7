"""Keeping sets pinned across restarts of the daemon, for as long as this process runs.

A daemon remembers pins by process, so a restart costs nothing where it can see the process. Where it cannot
(in a container with process numbers of its own) the pin ends with the connection: asking again for what is
open makes a new one.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final, Protocol

from cached.errors import CachedError

#: Seconds between two looks.
EVERY: Final = 15.0


class Opened(Protocol):
    """An open directory of a set, with its pin."""

    def close(self) -> None:
        """Close the descriptor and give the pin back."""


class Opener(Protocol):
    """What is needed of a client."""

    def open_dir(self, ref_path: str, *, fetch: bool) -> Opened:
        """Open a set."""


class Keeper(threading.Thread):
    """Asks for the sets again and again in the background; a daemon that is away is asked later."""

    def __init__(self, client: Opener, set_ids: Sequence[str], *, every: float = EVERY) -> None:
        super().__init__(name="cached-keeper", daemon=True)
        self._client = client
        self._open: dict[str, Opened | None] = dict.fromkeys(set_ids)
        self._every = every
        self._ended = threading.Event()

    def run(self) -> None:
        """Work until `stop`."""
        while not self._ended.wait(self._every):
            for set_id in self._open:
                self._renew(set_id)

    def stop(self) -> None:
        """End soon; does not wait."""
        self._ended.set()

    def _renew(self, set_id: str) -> None:
        try:
            fresh = self._client.open_dir(f"id:{set_id}", fetch=False)
        except (CachedError, OSError):
            return
        before, self._open[set_id] = self._open[set_id], fresh
        if before is not None:
            before.close()
