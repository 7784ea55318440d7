"""Progress of long work: bars on a terminal. Elsewhere only why it does not move is told, once; with `--json` nothing.

Reports are cumulative, so any of them may be lost or skipped. Everything goes to stderr.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from cached.units import format_duration, format_size

from cached_cli.output import clean, plain, talk
from cached_cli.session import Session

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import Task, TaskID

#: Seconds after which it is told why work does not move.
PATIENCE: Final = 5.0


class Meter:
    """Shows how far one piece of work is; call it with each report, use it as a context manager."""

    def __init__(self, label: str, session: Session, *, now: Callable[[], float] = time.monotonic) -> None:
        self.label = label
        #: The latest report, as plain values; empty before the first.
        self.last: dict[str, Any] = {}
        self._session = session
        self._now = now
        self._patient_until = 0.0
        self._told: set[str] = set()
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._patient_until = self._now() + PATIENCE
        if sys.stderr.isatty() and not self._session.json:
            self._bars = _bars(self._session)
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, report: object) -> None:
        """Take one report."""
        self.last = plain(report)
        if self._session.json:
            return
        if self._bars is not None:
            self._draw(self._bars)
        elif self._now() >= self._patient_until:
            for line in reasons(self.label, self.last):
                if line not in self._told:
                    self._told.add(line)
                    talk(line)

    def _draw(self, bars: Bars) -> None:
        shown = parts(self.label, self.last)
        if self.label in self._tasks and (self.label, self.last) not in shown:  # it came before the nodes did
            shown.insert(0, (self.label, whole(self.last)))
        for name, part in shown:
            if name not in self._tasks:
                self._tasks[name] = bars.add_task(clean(name), total=None, note="", rate=None, left=None)
            note = clean(part.get("reason") or part.get("state") or "")
            bars.update(
                self._tasks[name],
                completed=part.get("bytes_present") or 0,
                total=part.get("bytes_wanted") or None,
                note=note.lower() if note.isupper() else note,
                rate=part.get("bytes_per_second"),
                left=part.get("seconds_left"),
            )


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


def parts(label: str, report: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return what is shown of a report: one named part for each node, or the whole under its label."""
    nodes = report.get("nodes") or []
    return [(str(node["node"]), node) for node in nodes] if nodes else [(label, report)]


def whole(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report of nodes as one of all together: the sum of their speeds, and the longest time left."""
    nodes = [node for node in report.get("nodes") or [] if node.get("bytes_per_second")]
    left = [node["seconds_left"] for node in nodes if node.get("seconds_left") is not None]
    return report | {
        "bytes_per_second": sum(node["bytes_per_second"] for node in nodes) or None,
        "seconds_left": max(left, default=None),
    }


def reasons(label: str, report: dict[str, Any]) -> list[str]:
    """Return why it does not move, where a report says so: a line for each node, or for the whole."""
    return [
        f"{label if name == label else f'{label} on {name}'}: {part['reason']}"
        for name, part in parts(label, report)
        if part.get("reason")
    ]


def _bars(session: Session) -> Bars:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        ProgressColumn,
        TextColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        """Bytes a second, in the units of the sizes beside it."""

        def render(self, task: Task) -> Text:
            speed = task.fields["rate"] or task.finished_speed or task.speed
            return Text(f"{format_size(speed)}/s" if speed else "", style="progress.data.speed")

    class Left(ProgressColumn):
        """The time until it is done: as the node reckons, else from what was seen here."""

        def render(self, task: Task) -> Text:
            left = task.fields["left"] if task.fields["left"] is not None else task.time_remaining
            said = "" if left is None or task.finished else f"{format_duration(left)} left"
            return Text(said, style="progress.remaining")

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        Rate(),
        Left(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True, no_color=None if session.color else True),
        transient=True,
    )
