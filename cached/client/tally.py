"""What a job's localisation moved, in one line: sizes, from where the bytes came, and the share that was a hit."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from cached.units import format_size

#: Where bytes of an input came from, in the order in which they are told. `here`: of a set that this node held.
PLACES: Final = ("here", "memory", "disk", "redis", "peer", "origin")
#: What no cache had: it came from Cloud Storage, or for a set from other nodes.
_MISSED: Final = {"object": frozenset({"origin"}), "set": frozenset({"peer", "origin"})}


class Tally:
    """Counts files and bytes; not for several threads at once."""

    def __init__(self) -> None:
        self.files_in = self.files_out = 0
        self.bytes_in = self.bytes_out = 0
        #: Bytes of inputs by place.
        self.places: Counter[str] = Counter()
        self._missed = 0

    def brought(self, files: int, size: int, place: str, *, what: str = "object") -> None:
        """Count an input, of `size` bytes, an `object` or a `set`."""
        self.files_in += files
        self.bytes_in += size
        self.places[place] += size
        self._missed += size if place in _MISSED[what] else 0

    def sent(self, size: int) -> None:
        """Count an output."""
        self.files_out += 1
        self.bytes_out += size

    @property
    def hit_rate(self) -> float | None:
        """Share of the input's bytes that did not have to be fetched; None when there were none."""
        return 1 - self._missed / self.bytes_in if self.bytes_in else None

    def facts(self) -> dict[str, Any]:
        """Return the same for programs."""
        return {
            "files_in": self.files_in,
            "bytes_in": self.bytes_in,
            "bytes_by_place": {place: self.places[place] for place in PLACES},
            "files_out": self.files_out,
            "bytes_out": self.bytes_out,
            "hit_rate": self.hit_rate,
        }

    def line(self) -> str:
        """Return `in 3 files 1.2 GiB (memory 40 %, origin 60 %), out 1 file 3.0 MiB, hit rate 40 %`."""
        told = [f"in {_files(self.files_in)} {format_size(self.bytes_in)}{self._shares()}"]
        told.append(f"out {_files(self.files_out)} {format_size(self.bytes_out)}")
        rate = self.hit_rate
        return ", ".join(told if rate is None else [*told, f"hit rate {round(100 * rate)} %"])

    def _shares(self) -> str:
        shares = [
            f"{place} {round(100 * self.places[place] / self.bytes_in)} %"
            for place in PLACES
            if self.places[place]
        ]
        return f" ({', '.join(shares)})" if shares else ""


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"
