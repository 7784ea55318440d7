"""What the cache was good for: hits and misses by tier, and the two figures to scale on.

The byte hit rate says what was saved. The share of the working set that fits says what more room could save: the
working set is the bytes of all different copies that were asked for lately, estimated from a sample of names
(spatially hashed sampling; C. Waldspurger and others, "Efficient MRC Construction with SHARDS", FAST 2015) so that
the memory needed does not grow with the traffic.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from functools import lru_cache
from typing import Final, Literal

import msgspec

from cached.units import format_size

#: Where the bytes of a read came from.
Place = Literal["memory", "disk", "redis", "peer", "origin"]
PLACES: Final[tuple[Place, ...]] = ("memory", "disk", "redis", "peer", "origin")
_COST: Final = {place: number for number, place in enumerate(PLACES)}
#: Where a hit comes from: no bytes were read from Cloud Storage.
HITS: Final = frozenset[Place]({"memory", "disk", "redis", "peer"})
#: Seconds that the working set looks back.
WINDOW: Final = 3600.0
#: Names sampled, at most; when there are more, every second one is left out from then on.
SAMPLE: Final = 4096
#: Shares that matter for the words: below the first much is missing, below the second something.
SCARCE: Final = 0.5
AMPLE: Final = 0.95


class Counted(msgspec.Struct):
    """Reads served from one place, and their bytes."""

    reads: int = 0
    bytes: int = 0


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """The two figures to scale on, and what they are made of."""

    #: Bytes not read from Cloud Storage, of all that were asked for; None: nothing was asked for yet.
    byte_hit_rate: float | None
    #: Part of the working set that the tiers of this node could hold at once, at most 1; None: no working set.
    fits: float | None
    #: The same for memory alone.
    fits_memory: float | None
    #: Bytes of all different copies asked for within the window.
    working_set: int


class WorkingSet:
    """An estimate of the bytes of all different names that were used within `window` seconds."""

    def __init__(self, window: float = WINDOW, limit: int = SAMPLE) -> None:
        self._window = window
        self._limit = limit
        #: Names whose hash ends in so many zero bits are in the sample.
        self._level = 0
        self._seen: OrderedDict[str, tuple[float, int, int]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._seen)

    def note(self, name: str, size: int, now: float) -> None:
        """Note a use of a copy."""
        zeros = _zeros(name)
        if zeros < self._level:
            return
        self._remove(name)
        self._seen[name] = (now, size, zeros)
        self._bytes += size
        self._forget(now)
        while len(self._seen) > self._limit:
            self._level += 1
            for other in [one for one, (_, _, bits) in self._seen.items() if bits < self._level]:
                self._remove(other)

    def bytes(self, now: float) -> int:
        """Return the estimate."""
        self._forget(now)
        if not self._seen:
            self._level = 0
        return self._bytes << self._level

    def _forget(self, now: float) -> None:
        while self._seen:
            name, (when, _, _) = next(iter(self._seen.items()))
            if when + self._window > now:
                return
            self._remove(name)

    def _remove(self, name: str) -> None:
        found = self._seen.pop(name, None)
        if found is not None:
            self._bytes -= found[1]


class Account:
    """Reads by the place they were served from, since the start."""

    def __init__(self, working_set: WorkingSet | None = None) -> None:
        self.places: dict[Place, Counted] = {place: Counted() for place in PLACES}
        self.working_set = working_set or WorkingSet()

    def served(self, name: str, size: int, parts: dict[Place, int], now: float, reads: int = 1) -> None:
        """Count reads of `size` bytes under a name; `parts` are all their bytes by place, of which the dearest counts
        them.
        """
        for place, moved in parts.items():
            self.places[place].bytes += moved
        dearest = max(parts, key=_COST.__getitem__, default=PLACES[0])
        self.places[dearest].reads += reads
        self.working_set.note(name, size, now)

    @property
    def hits(self) -> Counted:
        """Return reads, and bytes, that cost Cloud Storage none."""
        found = [self.places[place] for place in PLACES if place in HITS]
        return Counted(sum(one.reads for one in found), sum(one.bytes for one in found))

    @property
    def misses(self) -> Counted:
        """Return reads of which Cloud Storage served some bytes, and these bytes."""
        return self.places["origin"]

    def figures(self, memory: int, disk: int, now: float) -> Figures:
        """Return the figures for tiers of so many bytes."""
        asked = self.hits.bytes + self.misses.bytes
        wanted = self.working_set.bytes(now)
        return Figures(
            byte_hit_rate=self.hits.bytes / asked if asked else None,
            fits=min(1.0, (memory + disk) / wanted) if wanted else None,
            fits_memory=min(1.0, memory / wanted) if wanted else None,
            working_set=wanted,
        )


def advice(figures: Figures, memory: int, disk: int) -> str:
    """Say in words whether the tiers should grow, and which; what fits needs no advice."""
    wanted = format_size(figures.working_set)
    if figures.fits is None or figures.fits_memory is None or figures.byte_hit_rate is None:
        return "no objects were read lately"
    if figures.fits < AMPLE:
        how = "much" if figures.fits < SCARCE else "some"
        return (
            f"the objects read lately are {wanted}, memory and disk hold {format_size(memory + disk)} of objects: "
            f"{how} is read from Cloud Storage again; raise [objects] disk or memory, or add nodes"
        )
    if memory and figures.fits_memory < SCARCE:
        return (
            f"the objects read lately are {wanted}, memory holds {format_size(memory)}: most are read from disk; "
            "memory should grow: raise [objects] memory where the machine has it"
        )
    return f"the objects read lately, {wanted}, fit"


@lru_cache(maxsize=16_384)
def _zeros(name: str) -> int:
    hashed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
    return (hashed & -hashed).bit_length() - 1 if hashed else 64
