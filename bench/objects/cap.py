"""Memory for objects never takes more than its cap, and the policy saves as many bytes as plain LRU.

Real traffic: readers on one node whose memory for objects is 256 MB read the trace `batch` of `bench.object_traces`,
and write, while the files in memory are counted again and again: in blocks of the file system, unfinished ones and,
where the node's memory is a file system of its own (as root), removed ones that are still open. Then the rules alone on
all four traces, 10 GB each, beside LRU.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Self

from bench import object_traces
from bench.objects import place
from bench.report import Figure

_CAP: Final = 256 * 10**6
_DISK: Final = 10**9
_READERS: Final = 8
#: Each so many-th read is followed by a write.
_WRITES: Final = 20
_LOOK: Final = 0.005
_LARGEST: Final = 64 * 10**6
#: Stands for a ratio to nothing: LRU hits nothing of a loop that is larger than it.
_MANY: Final = 1000.0


class Usage:
    """The bytes that the node's memory takes, looked at all the time."""

    def __init__(self, folder: Path, *, alone: bool) -> None:
        self._folder, self._alone = folder, alone
        self._over = threading.Event()
        self.peak = self.looks = 0
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_LOOK):
            self.peak = max(self.peak, self._now())
            self.looks += 1

    def _now(self) -> int:
        if self._alone:
            found = os.statvfs(self._folder)
            return (found.f_blocks - found.f_bfree) * found.f_frsize
        total = 0
        for folder, _, names in os.walk(self._folder):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    total += os.stat(os.path.join(folder, name)).st_blocks * 512
        return total


def measure(asked: Any) -> tuple[dict[str, Any], list[Figure]]:
    """Return the parameters and figures."""
    parameters = {"cap": _CAP, "disk": _DISK, "traffic": asked.traffic, "readers": _READERS}
    return parameters, [*_real(asked.traffic), *_rules()]


def _real(traffic: int) -> list[Figure]:
    noise = random.Random(0).randbytes(_LARGEST)
    with place.storage("cap") as storage, _memory() as (folder, alone), place.cluster() as made:
        (node,) = place.nodes(
            made,
            storage,
            objects_memory=str(_CAP),
            objects_disk=str(_DISK),
            store_capacity="4GB",
            store_memory=str(folder),
            store_memory_capacity="1GB",
        )
        lock, known = threading.Lock(), dict[str, int]()
        began = time.perf_counter()
        with node.client() as client, Usage(folder, alone=alone) as usage:

            def read(job: tuple[int, tuple[str, int]]) -> int:
                number, (name, size) = job
                with lock:
                    if name not in known:
                        known[name] = storage.put("cap", name, noise[:size])
                with client.open_object(f"gs://cap/{name}") as file:
                    if file.read() != noise[:size]:
                        raise AssertionError(f"other bytes of {name} came")
                if number % _WRITES == 0:
                    client.put(noise[:size], f"gs://cap/w{number % 100}")
                return size

            with ThreadPoolExecutor(_READERS) as pool:
                moved = sum(pool.map(read, enumerate(object_traces.reads("batch", 0, traffic=traffic))))
        seconds = time.perf_counter() - began
        counters = node.status()["counters"]
    if not usage.peak:
        raise AssertionError("nothing came into memory")
    return [
        Figure("most bytes in memory, of the cap", usage.peak / _CAP, "x", 1.0),
        Figure("looks at the memory", usage.looks),
        Figure("bytes read", moved / 1e9, "GB"),
        Figure("took", seconds, "s"),
        Figure("reads that no tier had room for", counters.get("objects.read_through", 0)),
    ]


@contextlib.contextmanager
def _memory() -> Iterator[tuple[Path, bool]]:
    """Give a directory in memory, and say whether it is a file system of its own."""
    with tempfile.TemporaryDirectory(prefix="cached-cap-", dir="/dev/shm") as name:
        alone = os.geteuid() == 0
        if alone:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g,mode=0700", "tmpfs", name], check=True)
        try:
            yield Path(name), alone
        finally:
            if alone:
                subprocess.run(["umount", "--lazy", name], check=True)


def _rules() -> list[Figure]:
    found = {trace: object_traces.run(trace, 0) for trace in object_traces.TRACES}
    figures = [
        Figure(
            f"rules, {trace}: byte hit rate, of LRU's", min(_MANY, object_traces.ratio(one)), "x", 0.97, ">="
        )
        for trace, one in found.items()
    ]
    ours, lru = (sum(one[key] for one in found.values()) for key in ("hit_rate", "lru_hit_rate"))
    peak = max(max(one["peak_memory"], one["peak_disk"]) for one in found.values())
    return [
        *figures,
        Figure("rules, sum of hit rates, of LRU's", ours / lru, "x", 1.0, ">="),
        Figure("rules, most bytes in a tier, of its cap", peak, "x", 1.0),
    ]
