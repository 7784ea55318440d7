"""Four readers that map the same large file of a set: their pages are the kernel's, once."""

from __future__ import annotations

import mmap
import multiprocessing
import re
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Final

from cached.client import Client

from bench.reading import place
from bench.report import Figure

_READERS: Final = 4
_FORK: Final = multiprocessing.get_context("fork")
_PATIENCE: Final = 120.0


def measure(asked: Any) -> tuple[dict[str, Any], list[Figure]]:
    """Return the parameters and figures."""
    with place.serving({"large": asked.size}) as served:
        barrier, results = _FORK.Barrier(_READERS), _FORK.SimpleQueue()
        readers = [
            _FORK.Process(target=_map, args=(served.node.runtime, barrier, results)) for _ in range(_READERS)
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(_PATIENCE)
            if reader.exitcode != 0:
                raise AssertionError(f"a reader ended with {reader.exitcode}")
        found = [results.get() for _ in readers]
    resident, proportional = (sum(each) / asked.size for each in zip(*found, strict=True))
    return {"readers": _READERS, "bytes": asked.size}, [
        Figure("resident in all readers together, of the file", resident, "x"),
        Figure("taken by all readers together (PSS), of the file", proportional, "x", 1.02),
    ]


def _map(runtime: Path, barrier: Barrier, results: Any) -> None:
    with (
        Client(runtime).open("nr/large") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory,
    ):
        for at in range(0, len(memory), mmap.PAGESIZE):
            memory[at]
        barrier.wait(_PATIENCE)
        results.put(_sizes("/large"))
        barrier.wait(_PATIENCE)


def _sizes(name: str) -> tuple[int, int]:
    """Return bytes resident, and shared out among those who have them, of the mappings of a file of that name."""
    resident = proportional = 0
    for mapping in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text()):
        if mapping.partition("\n")[0].endswith(name):
            facts = dict(re.findall(r"^(Rss|Pss): +(\d+) kB", mapping, re.MULTILINE))
            resident += int(facts["Rss"]) * 1024
            proportional += int(facts["Pss"]) * 1024
    return resident, proportional
