"""How much of the traffic the object cache saves, against plain LRU: `python -m bench.object_traces [--json]`.

Only the rules run, no file is touched: memory of 256 MB above a disk of 1 GB, and 10 GB of reads a trace; LRU is one
list of the joint size. Sizes are 1 KB to 64 MB, evenly spread over their logarithm.
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import os
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator

from cached.objects.admission import Tier
from cached.objects.entry import Entry, Held
from cached.objects.index import Index
from cached.objects.key import ObjectKey
from cached.objects.room import rounded

from bench.report import Figure, Row, show

KB, MB, GB = 10**3, 10**6, 10**9
Read = tuple[str, int]
#: What stands for a multiple of nothing.
_NOTHING = 1000.0


def sizes(rng: random.Random, prefix: str, total: int, scale: float) -> list[Read]:
    """Return objects of `total` bytes together."""
    found: list[Read] = []
    while total > 0:
        size = int(KB * scale * 64_000 ** rng.random())
        found.append((f"{prefix}{len(found)}", size))
        total -= size
    return found


def zipf(rng: random.Random, scale: float) -> Iterator[Read]:
    """Reads of one large collection in which few objects are popular (exponent 0.9)."""
    objects = sizes(rng, "z", int(5 * GB * scale), scale)
    weights = list(itertools.accumulate(1 / (rank + 1) ** 0.9 for rank in range(len(objects))))
    while True:
        yield objects[bisect.bisect_left(weights, rng.random() * weights[-1])]


def scan(rng: random.Random, scale: float) -> Iterator[Read]:
    """A warm collection, and every now and then a walk over much that is never read again."""
    hot = sizes(rng, "h", int(0.8 * GB * scale), scale)
    for walk in itertools.count():
        for _ in range(2 * len(hot)):
            yield rng.choice(hot)
        yield from sizes(rng, f"s{walk}.", int(1.2 * GB * scale), scale)


def loop(rng: random.Random, scale: float) -> Iterator[Read]:
    """Epochs over a training set that is a third larger than both tiers together."""
    yield from itertools.cycle(sizes(rng, "l", int(1.7 * GB * scale), scale))


def batch(rng: random.Random, scale: float) -> Iterator[Read]:
    """Jobs after jobs: references that all of them read, inputs of one job, intermediates read soon and never again."""
    references = sizes(rng, "r", int(0.3 * GB * scale), scale)
    for job in itertools.count():
        inputs = sizes(rng, f"i{job}.", int(0.4 * GB * scale), scale)
        for task in range(4):
            yield from rng.sample(references, len(references) // 2)
            yield from rng.sample(inputs, 2 * len(inputs) // 3)
            made = sizes(rng, f"m{job}.{task}.", int(0.1 * GB * scale), scale)
            yield from made
            yield from reversed(made)


TRACES: dict[str, Callable[[random.Random, float], Iterator[Read]]] = {
    "zipf": zipf,
    "scan": scan,
    "loop": loop,
    "batch": batch,
}


def reads(trace: str, seed: int, scale: float = 1.0, traffic: int = 10 * GB) -> Iterator[Read]:
    """Yield a trace; `scale` makes sizes, and all that is said in bytes, smaller."""
    left = traffic * scale
    for read in TRACES[trace](random.Random(seed), scale):
        yield read
        left -= read[1]
        if left <= 0:
            return


class Lru:
    """One list, the longest unused goes."""

    def __init__(self, cap: int) -> None:
        self.cap, self.used = cap, 0
        self.held: OrderedDict[str, int] = OrderedDict()

    def read(self, name: str, size: int) -> bool:
        """Read an object; return whether it was here."""
        if name in self.held:
            self.held.move_to_end(name)
            return True
        size = rounded(size)
        if size <= self.cap:
            while self.used + size > self.cap:
                self.used -= self.held.popitem(last=False)[1]
            self.held[name] = size
            self.used += size
        return False


class Cached:
    """The rules of this node, with moves that take no time."""

    def __init__(self, memory: int, disk: int) -> None:
        self.index = Index({"memory": memory, "disk": disk})
        self.memory_bytes = 0
        self.promoted = self.demoted = 0
        self.peak: dict[Tier, int] = {"memory": 0, "disk": 0}
        self._tick = 0

    def read(self, name: str, size: int) -> bool:
        """Read an object; return whether it was here."""
        self._tick += 1
        entry = self.index.get(name)
        hit = entry is not None
        if entry is not None:
            self.index.touch(entry, "", self._tick)
            if "memory" in entry.held:
                self.memory_bytes += size
            elif self.index.belongs_up(entry):
                entry.pins += 1
                self.promoted += size * self.put(entry, "memory", rival=entry)
                entry.pins -= 1
        else:
            touches = self.index.missed(name)
            entry = Entry(
                name=name, key=ObjectKey("b", name, 1), block=None, size=size, crc32c=0, scope="", users=(),
                source="origin", last_used=self._tick, frequency=touches - 1, boot="", held={},
            )  # fmt: skip
            for tier in self.index.choose(size, touches):
                if self.put(entry, tier):
                    self.index.touch(entry, "", self._tick)
                    break
        for tier, room in self.index.rooms.items():
            self.peak[tier] = max(self.peak[tier], room.used + room.reserved)
        return hit

    def put(self, entry: Entry, tier: Tier, rival: Entry | None = None) -> bool:
        """Make room in a tier and put a copy there."""
        victims = self.index.victims(tier, entry.size, rival)
        if victims is None:
            return False
        for victim in victims:
            if tier == "memory" and "disk" not in victim.held:
                self.demoted += victim.size * self.put(victim, "disk", rival=victim)
            self.index.detach(victim, tier, remember=True)
            self.index.rooms[tier].drop(victim.name)
        if not self.index.rooms[tier].adopt(entry.name, entry.size):
            raise AssertionError("the victims gave too little")
        self.index.keep(entry, tier, Held(entry.name, rounded(entry.size)))
        return True


def run(trace: str, seed: int, scale: float = 1.0, traffic: int = 10 * GB) -> dict[str, float]:
    """Return the figures of one trace."""
    memory, disk = int(256 * MB * scale), int(GB * scale)
    ours, lru = Cached(memory, disk), Lru(memory + disk)
    total = hits = plain = count = 0
    for name, size in reads(trace, seed, scale, traffic):
        total += size
        count += 1
        hits += size * ours.read(name, size)
        plain += size * lru.read(name, size)
    return {
        "reads": count,
        "bytes": total,
        "hit_rate": hits / total,
        "memory_hit_rate": ours.memory_bytes / total,
        "lru_hit_rate": plain / total,
        "peak_memory": ours.peak["memory"] / memory,
        "peak_disk": ours.peak["disk"] / disk,
        "promoted": ours.promoted / total,
        "demoted": ours.demoted / total,
    }


def main() -> None:
    """Run all traces; print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each trace, with seeds 0, 1, ...")
    options = parser.parse_args()
    load = list(os.getloadavg())
    found = {trace: [run(trace, seed) for seed in range(options.seeds)] for trace in TRACES}
    rows: dict[str, Row] = {trace: ({"seeds": options.seeds}, figures(runs)) for trace, runs in found.items()}
    ours, lru = (sum(mean(runs)[key] for runs in found.values()) for key in ("hit_rate", "lru_hit_rate"))
    rows["all"] = ({}, [Figure("sum of byte hit rates, of LRU's", ours / lru, "x", 1.0, ">=")])
    show(rows, load, as_json=options.json)


def mean(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the means of all figures over the seeds."""
    return {key: sum(one[key] for one in runs) / len(runs) for key in runs[0]}


def figures(runs: list[dict[str, float]]) -> list[Figure]:
    """Return what one trace's runs show."""
    row = mean(runs)
    peak = max(max(one["peak_memory"], one["peak_disk"]) for one in runs)
    return [
        Figure("byte hit rate, LRU", row["lru_hit_rate"]),
        Figure("byte hit rate, memory and disk", row["hit_rate"]),
        Figure("  of it from memory", row["memory_hit_rate"]),
        Figure("of LRU's", min(ratio(row), _NOTHING), "x", 0.97, ">="),
        Figure("of LRU's, the worst seed", min(*map(ratio, runs), _NOTHING), "x"),
        Figure("most bytes in a tier, of its cap", peak, "x", 1.0),
        Figure("moved up to memory, of what was read", row["promoted"], "x"),
        Figure("moved down to disk, of what was read", row["demoted"], "x"),
    ]


def ratio(row: dict[str, float]) -> float:
    """Return our byte hit rate as a multiple of LRU's; infinite where LRU hits nothing."""
    return row["hit_rate"] / row["lru_hit_rate"] if row["lru_hit_rate"] else float("inf")


if __name__ == "__main__":
    main()
