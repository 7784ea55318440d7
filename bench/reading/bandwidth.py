"""Reading all bytes of a large file of a set, beside the same bytes in a plain file: cached by the kernel, and not."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from bench.reading import place
from bench.report import Figure

_ROUNDS: Final = {"warm": 11, "cold": 5}
_BUFFER: Final = 1 << 20
#: Times that the kernel is asked to forget a file.
_ATTEMPTS: Final = 20


def measure(asked: Any) -> tuple[dict[str, Any], list[Figure]]:
    """Return the parameters and figures."""
    found: list[Figure] = []
    with place.serving({"large": asked.size}) as served, served.node.client() as client:
        ways: dict[str, Callable[[], Any]] = {
            "set": lambda: client.open("nr/large"),
            "plain": partial(open, served.plain / "large", "rb"),
        }
        for state, rounds in _ROUNDS.items():
            took: dict[str, list[float]] = {way: [] for way in ways}
            for number in range(rounds):
                for way in sorted(ways, reverse=bool(number % 2)):
                    with ways[way]() as file:
                        (_forget if state == "cold" else _read)(file.fileno())
                    began = time.perf_counter()
                    with ways[way]() as file:
                        _read(file.fileno())
                    took[way].append(time.perf_counter() - began)
            speed = {way: asked.size / statistics.median(values) for way, values in took.items()}
            ratio = statistics.median(p / s for s, p in zip(took["set"], took["plain"], strict=True))
            found += [Figure(f"{state}: {way}", each / 1e9, "GB/s") for way, each in speed.items()]
            found.append(Figure(f"{state}: of the plain file's speed", ratio, "x", 0.97, ">="))
    return {"bytes": asked.size, "rounds": _ROUNDS, "cold": "posix_fadvise, needs no root"}, found


def _read(descriptor: int) -> None:
    buffer, at = bytearray(_BUFFER), 0
    while count := os.preadv(descriptor, [buffer], at):
        at += count


def _forget(descriptor: int) -> None:
    """Have the kernel forget what it has of a file, and see that it did; what was just used it keeps for a while."""
    os.fsync(descriptor)
    for _ in range(_ATTEMPTS):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        if not _has_pages(descriptor):
            return
        time.sleep(0.1)
    raise AssertionError("the kernel keeps pages of the file: cold reads cannot be measured here")


def _has_pages(descriptor: int) -> bool:
    """Tell whether the kernel has some of a file, by a look at a byte of each 64 MiB."""
    for at in range(0, os.fstat(descriptor).st_size, 64 << 20):
        with contextlib.suppress(BlockingIOError):
            os.preadv(descriptor, [bytearray(1)], at, os.RWF_NOWAIT)
            return True
    return False
