"""What is slow to find, looked up in the background: who needs it waits a little, the first time, and not again."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

Found = TypeVar("Found")

log = logging.getLogger(__name__)

#: How long the first one to ask waits, in seconds.
PATIENCE: Final = 3.0
#: For how long it counts that nothing was found, in seconds; then it is looked for again, and nobody waits for that.
ABSENT: Final = 300.0


class Lookup(Generic[Found]):
    """What `find` returns, once it has returned it: None is looked for again after a while, all else stays.

    `find` runs in a thread of its own. What it raises is raised for whoever asks next, and then it is tried again.
    """

    def __init__(
        self,
        what: str,
        find: Callable[[], Found | None],
        *,
        patience: float = PATIENCE,
        absent: float = ABSENT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        #: For the log.
        self._what = what
        self._find = find
        self._patience = patience
        self._absent = absent
        self._clock = clock
        self._search: _Search[Found] | None = None
        self._found: Found | None = None
        #: Until when it counts that there is nothing; None: that is not known.
        self._nothing_until: float | None = None

    def get(self) -> Found | None:
        """Return what was found; None: nothing, or it is not known yet. Raises what `find` raised."""
        if self._found is not None:
            return self._found
        if self._nothing_until is not None and self._clock() < self._nothing_until:
            return None
        search = self._search
        if search is None or search.pid != os.getpid():  # a thread does not come along into a fork
            search = self._search = _Search(self._find, self._clock() + self._patience)
        if self._nothing_until is None:
            search.done.wait(max(0.0, search.patient_until - self._clock()))
        if search.done.is_set():
            return self._taken(search)
        self._say_so(search)
        return None

    def _taken(self, search: _Search[Found]) -> Found | None:
        self._search = None
        if search.error is not None:
            raise search.error
        self._found = search.found
        if search.found is None:
            self._nothing_until = self._clock() + self._absent
        return search.found

    def _say_so(self, search: _Search[Found]) -> None:
        if not search.told:
            search.told = True
            log.warning(
                "%s: no answer within %g s; going on without, and looking on in the background",
                self._what,
                self._patience,
            )


class _Search(Generic[Found]):
    """One search that is under way."""

    def __init__(self, find: Callable[[], Found | None], patient_until: float) -> None:
        self._find = find
        self.patient_until = patient_until
        self.pid = os.getpid()
        self.done = threading.Event()
        self.found: Found | None = None
        self.error: Exception | None = None
        self.told = False
        threading.Thread(target=self._run, name="cached-lookup", daemon=True).start()

    def _run(self) -> None:
        try:
            self.found = self._find()
        except Exception as error:  # noqa: BLE001 - raised for whoever asked
            self.error = error
        finally:
            self.done.set()
