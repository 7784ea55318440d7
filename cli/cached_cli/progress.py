"""Progress of long work: lines with bars on a terminal. Elsewhere only why it does not move is told; with `--json`
nothing.

Reports are cumulative, so any of them may be lost or skipped. Everything goes to stderr.
"""

from __future__ import annotations

import contextlib
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from cached.speed import Speed, seconds_left

from cached_cli.output import plain, talk
from cached_cli.picture import Picture, Row, row
from cached_cli.session import Session

if TYPE_CHECKING:
    from rich.live import Live

#: Seconds after which it is told why work does not move.
PATIENCE: Final = 5.0
_FIGURES: Final = re.compile(r"[0-9]+")


class Meter:
    """Shows how far one piece of work is; call it with each report, use it as a context manager.

    Who interrupts it while nodes are at work is told `after`: they go on.
    """

    def __init__(
        self, label: str, session: Session, *, after: str = "", now: Callable[[], float] = time.monotonic
    ) -> None:
        self.label = label
        self._after = after or going_on(label)
        #: The latest report, as plain values; empty before the first.
        self.last: dict[str, Any] = {}
        self._session = session
        self._now = now
        self._patient_until = 0.0
        #: Of what which reasons have been told, figures left out: one that counts seconds is told once.
        self._told: set[tuple[str, str]] = set()
        self._live: Live | None = None
        self._speed = Speed()

    def __enter__(self) -> Self:
        self._patient_until = self._now() + PATIENCE
        if sys.stderr.isatty() and not self._session.json:
            self._live = _live(self._session, self.rows)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        if kind is KeyboardInterrupt and self.last.get("nodes"):
            talk(f"cached: {self._after}")

    def __call__(self, report: object) -> None:
        """Take one report."""
        before, self.last = self.last.get("state"), plain(report)
        if self._session.json:
            return
        if not self.last.get("nodes"):
            self._measure(anew=self.last.get("state") != before)
        if self._live is None and self._now() >= self._patient_until:
            for line in reasons(self.label, self.last):
                who, _, why = line.partition(": ")
                if (said := (who, _FIGURES.sub("", why))) not in self._told:
                    self._told.add(said)
                    talk(line)

    def rows(self) -> list[Row]:
        """Return what is shown of the latest report."""
        return [row(name, part) for name, part in shown(self.label, self.last)] if self.last else []

    def _measure(self, *, anew: bool) -> None:
        """Add how fast it is to a report that does not say so: what is done by this program and no node."""
        self._speed = Speed() if anew else self._speed
        present = self.last.get("bytes_present") or 0
        rate = self._speed.look(self._now(), present)
        self.last["bytes_per_second"] = rate
        self.last["seconds_left"] = seconds_left(present, self.last.get("bytes_wanted") or 0, rate)


@contextlib.contextmanager
def patiently(words: str, session: Session, *, after: float = PATIENCE) -> Iterator[None]:
    """Say `words` when what is done inside takes longer than anybody waits without any."""
    timer = threading.Timer(after, talk, [words])
    timer.daemon = True
    if not session.json:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def going_on(name: str) -> str:
    """Say that an interrupted command leaves this node fetching a set, and how to see and stop that."""
    reference = name.partition("/")[0]
    return (
        f"this node goes on fetching {reference}; to look at it: cached show {reference}; "
        f"to give it up, as its owner: cached delete {reference}"
    )


def shown(label: str, report: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the lines of a report: the whole under its label, and each node below it; of one node a single line."""
    nodes = report.get("nodes") or []
    if len(nodes) == 1:
        return [(f"{label} on {nodes[0]['node']}", nodes[0])]
    return [(label, whole(report)), *((f"  {node['node']}", node) for node in nodes)]


def whole(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report of nodes as one of all together: the sum of their speeds, and the longest time left."""
    nodes = report.get("nodes") or []
    moving = [node for node in nodes if node.get("bytes_per_second")]
    if not nodes:
        return report
    left = [node["seconds_left"] for node in moving if node.get("seconds_left") is not None]
    return report | {
        "bytes_per_second": sum(node["bytes_per_second"] for node in moving) or None,
        "seconds_left": max(left, default=None),
    }


def reasons(label: str, report: dict[str, Any]) -> list[str]:
    """Return why it does not move, where a report says so: a line for each node, or for the whole."""
    nodes = report.get("nodes") or []
    parts = [(f"{label} on {node['node']}", node) for node in nodes] or [(label, report)]
    return [f"{name}: {part['reason']}" for name, part in parts if part.get("reason")]


def _live(session: Session, rows: Callable[[], list[Row]]) -> Live:
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, highlight=False, no_color=None if session.color else True)
    return Live(Picture(rows), console=console, transient=True, refresh_per_second=8)
