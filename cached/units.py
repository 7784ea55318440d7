"""Durations, sizes and rates as people write them, and instants as programs read them.

A duration carries its unit (`90s 30m 12h 7d`, also `1d12h`); a size is decimal (`500MB 15GB`), binary
(`500MiB`) or plain bytes; a rate is of bytes (`20MB/s`) or of bits (`160Mb/s`, `160Mbit/s`). What could be read in two
ways is refused: `30` alone is no duration, `5G` no size, `20mb/s` no rate.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

from cached.errors import UsageError

_SECONDS: Final = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_BYTES: Final = {
    "": 1,
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgtp", 1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgtp", 1)},
}

#: Longest duration accepted, in seconds: a hundred years.
MAX_DURATION: Final = 36_500 * 86_400
#: Largest size accepted, in bytes: what a signed 64-bit column holds.
MAX_SIZE: Final = 2**63 - 1

_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[wdhms] ?)+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)([wdhms])", re.ASCII)
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)", re.ASCII)
_RATE = re.compile(r"(\d+(?:\.\d+)?) ?(?:((?:[kKMGTP]i?)?)(B|b|bit))?(?:/s|ps)?", re.ASCII)
_RFC3339_MAX = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()


def parse_duration(text: str | int) -> int:
    """Return the whole seconds that `text` stands for; a number is seconds already. Raises `UsageError`."""
    if isinstance(text, int) and not isinstance(text, bool):
        return _bounded(text, text, "duration", MAX_DURATION)
    trimmed = str(text).strip()
    if trimmed == "0":
        return 0
    if not _DURATION.fullmatch(trimmed):
        raise UsageError(f"{text!r} is not a duration", hint="write a number and a unit: 90s, 30m, 12h or 7d")
    parts = _DURATION_PART.findall(trimmed)
    seconds = sum(_times(number, _SECONDS[unit], text, "duration") for number, unit in parts)
    return _bounded(seconds, text, "duration", MAX_DURATION)


def parse_size(text: str | int) -> int:
    """Return the bytes that `text` stands for; a number without a unit is bytes. Raises `UsageError`."""
    if isinstance(text, int) and not isinstance(text, bool):
        return _bounded(text, text, "size", MAX_SIZE)
    found = _SIZE.fullmatch(str(text).strip())
    unit = _BYTES.get(found[2].lower()) if found else None
    if found is None or unit is None:
        raise UsageError(
            f"{text!r} is not a size",
            hint="write bytes, decimal units (kB MB GB TB) or binary ones (KiB MiB GiB TiB)",
        )
    return _bounded(_times(found[1], unit, text, "size"), text, "size", MAX_SIZE)


def parse_rate(text: str | int) -> int:
    """Return the bytes per second that `text` stands for; a number without a unit is that. Raises `UsageError`.

    `B` is bytes and `b` bits, whatever stands before it; parts of a byte are left out.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        return _bounded(text, text, "rate", MAX_SIZE)
    found = _RATE.fullmatch(str(text).strip())
    if found is None:
        raise UsageError(
            f"{text!r} is not a clear rate", hint="write bytes, as 20MB/s or 20MiB/s, or bits, as 160Mbit/s"
        )
    number, prefix, kind = found[1], found[2] or "", found[3] or "B"
    read = _times(number, _BYTES[f"{prefix}b".lower()], text, "rate")
    return _bounded(read if kind == "B" else read // 8, text, "rate", MAX_SIZE)


def _times(number: str, unit: int, text: str | int, what: str) -> int:
    whole, _, fraction = number.partition(".")
    if len(number) > 40:
        raise UsageError(f"{what} {text!r} has too many digits")
    scale = int("1" + "0" * len(fraction))
    value, rest = divmod(int(whole + fraction) * unit, scale)
    if rest:
        smallest = "seconds" if what == "duration" else "bytes"
        raise UsageError(f"{what} {text!r} is not a whole number of {smallest}")
    return value


def _bounded(value: int, text: str | int, what: str, limit: int) -> int:
    if not 0 <= value <= limit:
        raise UsageError(f"{what} {text!r} is out of range", hint=f"between 0 and {limit}")
    return value


def format_size(size: float) -> str:
    """Return bytes for people, in binary units: `512 B`, `1.5 GiB`."""
    if abs(size) < 1024:
        return f"{int(size)} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        value /= 1024
        if abs(value) < 1023.95 or unit == "PiB":
            break
    return f"{value:.1f} {unit}"


def format_duration(seconds: float) -> str:
    """Return seconds for people, rounded down to the two largest units: `6d 23h`, `2m 5s`, `0s`."""
    left = max(0, int(seconds))
    for (unit, length), (smaller, smaller_length) in pairwise(_LADDER):
        if left >= length:
            rest = left % length // smaller_length
            return f"{left // length}{unit}" + (f" {rest}{smaller}" if rest else "")
    return f"{left}s"


_LADDER: Final = [(unit, length) for unit, length in _SECONDS.items() if unit != "w"]


def rfc3339(wall_seconds: float) -> str:
    """Return a wall-clock instant (seconds since 1970) as RFC 3339 in UTC: `2026-01-31T12:00:00Z`."""
    bounded = min(max(wall_seconds, 0.0), _RFC3339_MAX)
    return datetime.fromtimestamp(int(bounded), UTC).isoformat()[: -len("+00:00")] + "Z"
