"""What a terminal is shown of long work: a line for the whole and one for each node, never wider than it is.

Figures come before words: what does not fit is cut off the reason, the bar and the name, in this order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cached.units import format_duration, format_size

from cached_cli.output import clean

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

#: Cells of the bar at most, and at least, else it is left out; of a name at least; of `512.0 MiB of 1.0 GiB`; of a
#: rate; of `23h 59m left`; between two of them.
BAR: Final = 30
LEAST_BAR: Final = 6
LEAST_NAME: Final = 8
FIGURES: Final = 24
RATE: Final = 12
LEFT: Final = 12
#: Cells that a word beside figures must have, else it is left out.
LEAST_NOTE: Final = 16
GAP: Final = "  "


@dataclass(frozen=True)
class Row:
    """One line: what it is about, how far that is, how fast, and why it does not get on."""

    name: str
    present: int
    wanted: int | None
    rate: float | None
    left: float | None
    note: str


def row(name: str, part: dict[str, Any]) -> Row:
    """Return a row of a report, or of one node in it; no time left without a rate."""
    note = clean(part.get("reason") or "").partition("; ")[0] or str(part.get("state") or "").lower()
    rate = part.get("bytes_per_second") or None
    return Row(
        name=clean(name),
        present=part.get("bytes_present") or 0,
        wanted=part.get("bytes_wanted") or None,
        rate=rate,
        left=part.get("seconds_left") if rate else None,
        note=note,
    )


class Picture:
    """Draws the rows that `rows` returns whenever it is drawn."""

    def __init__(self, rows: Callable[[], list[Row]]) -> None:
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw."""
        yield from lines(self._rows(), options.max_width)


def lines(rows: list[Row], width: int) -> list[Text]:
    """Return the rows as lines of at most `width` cells, their figures below each other."""
    from rich.cells import cell_len

    narrow = width < LEAST_NAME + FIGURES + RATE + LEFT + 3 * len(GAP)
    sizes = FIGURES // 2 if narrow else FIGURES
    rest = width - sizes - RATE - LEFT - 3 * len(GAP)
    longest = max((cell_len(each.name) for each in rows), default=0)
    name = min(longest, max(LEAST_NAME, rest - len(GAP) - LEAST_BAR))
    bar = min(BAR, rest - len(GAP) - name)
    return [_line(each, name, bar if bar >= LEAST_BAR else 0, sizes, width) for each in rows]


def _line(each: Row, name: int, bar: int, sizes: int, width: int) -> Text:
    from rich.text import Text

    line = Text(each.name, no_wrap=True)
    line.truncate(name, overflow="ellipsis", pad=True)
    if bar:
        full = 0 if each.wanted is None else min(bar, bar * each.present // each.wanted)
        line.append(GAP).append("━" * full, "bar.complete").append("━" * (bar - full), "bar.back")
    whole = "" if each.wanted is None or sizes < FIGURES else f" of {format_size(each.wanted)}"
    line.append(GAP).append(f"{format_size(each.present)}{whole}".rjust(sizes), "progress.download")
    if each.rate:
        line.append(GAP).append(f"{format_size(each.rate)}/s".rjust(RATE), "progress.data.speed")
        left = "" if each.left is None else f"{format_duration(each.left)} left"
        line.append(GAP).append(left.rjust(LEFT), "progress.remaining")
    if not each.rate or line.cell_len + LEAST_NOTE <= width:
        line.append(GAP).append(each.note)
    line.truncate(width, overflow="ellipsis")
    return line
