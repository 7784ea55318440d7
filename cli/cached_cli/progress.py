"""Progress of long work: bars on a terminal, a plain line every few seconds elsewhere, nothing with `--json`.

Reports are cumulative, so any of them may be lost or skipped. Everything goes to stderr.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from cached.units import format_duration, format_size

from cached_cli.output import clean, plain, talk
from cached_cli.session import Session

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import Task, TaskID

#: Seconds between two plain lines, and before the first.
LINE_EVERY: Final = 5.0


class Meter:
    """Shows how far one piece of work is; call it with each report, use it as a context manager."""

    def __init__(self, label: str, session: Session, *, now: Callable[[], float] = time.monotonic) -> None:
        self.label = label
        #: The latest report, as plain values; empty before the first.
        self.last: dict[str, Any] = {}
        self._session = session
        self._now = now
        self._next_line = 0.0
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._next_line = self._now() + LINE_EVERY
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
        elif self._now() >= self._next_line:
            self._next_line = self._now() + LINE_EVERY
            for line in lines(self.label, self.last):
                talk(line)

    def _draw(self, bars: Bars) -> None:
        for name, part in parts(self.label, self.last):
            if name not in self._tasks:
                self._tasks[name] = bars.add_task(clean(name), total=None, note="")
            note = clean(part.get("reason") or part.get("state") or "")
            bars.update(
                self._tasks[name],
                completed=part.get("bytes_present") or 0,
                total=part.get("bytes_wanted") or None,
                note=note.lower() if note.isupper() else note,
            )


def parts(label: str, report: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return what is shown of a report: one named part for each node, or the whole under its label."""
    nodes = report.get("nodes") or []
    return [(str(node["node"]), node) for node in nodes] if nodes else [(label, report)]


def lines(label: str, report: dict[str, Any]) -> list[str]:
    """Return a report as plain lines: bytes, share, rate, time left, and why it does not move."""
    return [
        _line(label if name == label else f"{label} on {name}", part) for name, part in parts(label, report)
    ]


def _line(label: str, part: dict[str, Any]) -> str:
    done, wanted = part.get("bytes_present") or 0, part.get("bytes_wanted") or 0
    said = [format_size(done)]
    if wanted:
        said = [f"{format_size(done)} of {format_size(wanted)} ({100 * done // wanted} %)"]
    if rate := part.get("bytes_per_second"):
        said.append(f"{format_size(rate)}/s")
    if (seconds := part.get("seconds_left")) is not None:
        said.append(f"{format_duration(seconds)} left")
    if reason := part.get("reason"):
        said.append(str(reason))
    return f"{label}: {', '.join(said)}"


def _bars(session: Session) -> Bars:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        """Bytes a second, in the units of the sizes beside it."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{format_size(speed)}/s" if speed else "", style="progress.data.speed")

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True, no_color=None if session.color else True),
        transient=True,
    )
