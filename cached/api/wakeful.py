"""An event loop's selector that stays awake for a moment after a quick request: the next one may follow at once."""

from __future__ import annotations

import select
import selectors

from cached.vigil import Vigil


class WakefulSelector(selectors.EpollSelector):
    """Waits as its kind does, and before the first wait after `expect` stays awake for a moment, where that pays."""

    def __init__(self, vigil: Vigil | None = None) -> None:
        super().__init__()
        self._vigil = vigil or Vigil()
        self._expecting = False
        # the kind's own object: a select of nothing, in Python, would take longer than the system call
        self._epoll: select.epoll = self._selector  # type: ignore[attr-defined]

    def expect(self) -> None:
        """Expect that something will be there soon."""
        self._expecting = True

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for events, `timeout` seconds at most; None: without end."""
        if self._expecting and timeout != 0:
            self._expecting = False
            self._vigil.keep(self._any)
        return super().select(timeout)

    def _any(self) -> object:
        return self._epoll.poll(0, 1)
