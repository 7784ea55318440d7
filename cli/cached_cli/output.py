"""What people and programs see: JSON and tables on stdout, words on stderr.

Text from sets and peers is never trusted: control characters are shown, not obeyed.
"""

from __future__ import annotations

import json
import math
import sys
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import click
from cached.errors import CachedError
from cached.units import format_duration, format_size

from cached_cli.session import Session

#: Wide enough that nothing is cut where no terminal sets a width.
_UNBOUNDED = 100_000
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029")


def plain(value: Any) -> Any:
    """Return what the client answered as plain dictionaries, lists, text and numbers."""
    import msgspec

    return msgspec.to_builtins(value)


def items(value: Any) -> list[dict[str, Any]]:
    """Return the entries of a listing, whether it came bare or as `{"items": [...]}`."""
    built = plain(value)
    return list(built["items"] if isinstance(built, dict) else built)


def emit_json(value: Any) -> None:
    """Write `value` on stdout as JSON."""
    click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False))


def talk(text: str) -> None:
    """Say something to a person, on stderr."""
    click.echo(clean(text), err=True)


def warn(text: str) -> None:
    """Warn a person, on stderr."""
    talk(f"cached: warning: {text}")


def clean(text: object) -> str:
    """Return text with control characters and text-direction overrides made visible."""
    return "".join(
        char.encode("unicode_escape").decode()
        if unicodedata.category(char) == "Cc" or char in _BIDI
        else char
        for char in str(text)
    )


def size(value: Any) -> str:
    """Return bytes for people; `-` where there is no number."""
    return "-" if value is None else format_size(value)


def counted(number: int, noun: str, many: str = "") -> str:
    """Return `1 file` or `2 files`; `many` where an s does not make it several."""
    return f"{number} {noun if number == 1 else many or noun + 's'}"


def left(seconds: Any) -> str:
    """Return the time left for people, so that a lease just granted reads as granted; `-` for no lease."""
    if seconds is None:
        return "-"
    step = 60 if seconds >= 3600 else 1
    return format_duration(math.ceil(seconds / step) * step) if seconds > 0 else "expired"


def yes_no(value: Any) -> str:
    """Return `yes` or `no`; `-` where it is not known."""
    return "-" if value is None else "yes" if value else "no"


def table(
    session: Session,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    unbroken: Collection[str] = (),
) -> None:
    """Print rows under a head line; a column whose name starts with `>` is aligned to the right.

    Where a terminal is too narrow, cells are folded, but for figures and what `unbroken` names.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(
        file=sys.stdout,
        highlight=False,
        markup=False,
        emoji=False,
        no_color=None if session.color else True,
        width=None if sys.stdout.isatty() else _UNBOUNDED,
    )
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        justify = "right" if name.startswith(">") else "left"
        grid.add_column(
            Text(name.removeprefix(">")),
            justify=justify,  # type: ignore[arg-type]
            overflow="fold",
            no_wrap=name.startswith(">") or name in unbroken,
        )
    for row in rows:
        grid.add_row(*(Text(clean(cell)) for cell in row))
    with console.capture() as printed:
        console.print(grid)
    for line in printed.get().splitlines():
        click.echo(line.rstrip())


def pairs(facts: Iterable[tuple[str, object]]) -> None:
    """Print `name  value` lines, values aligned; facts without a value are left out."""
    known = [(name, clean(value)) for name, value in facts if value not in (None, "", [])]
    width = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        click.echo(f"{name:<{width}}  {value}")


def report(error: CachedError, *, as_json: bool) -> None:
    """Write an error on stderr: what happened, the facts, and what to do next; or the JSON of it."""
    if as_json:
        click.echo(json.dumps(error.to_wire(), indent=2, ensure_ascii=False, default=str), err=True)
        return
    talk(f"cached: {error.message}")
    for line in detail_lines(error):
        talk(f"  {line}")
    if error.hint:
        talk(f"  hint: {error.hint}")


def detail_lines(error: CachedError) -> list[str]:
    """Return the facts of an error that its message does not say already, for people."""
    lines: list[str] = []
    for name in ("candidates", "reasons", "items"):
        found = error.details.get(name)
        lines += [_detail(entry) for entry in found] if isinstance(found, list) else []
    for name, label in (("bytes_needed", "needed"), ("bytes_free", "free")):
        value = error.details.get(name)
        if isinstance(value, int | float):
            lines.append(f"{label}: {format_size(value)}")
    return [line for line in lines if line and line not in error.message]


def _detail(entry: object) -> str:
    if not isinstance(entry, dict):
        return str(entry)
    named = {"name", "owner", "id", "node", "state", "reason"}
    return "  ".join(str(value) for key, value in entry.items() if key in named and value)
