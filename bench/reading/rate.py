"""How many opens a second one daemon answers to eight clients, each of them a process that asks and waits."""

from __future__ import annotations

import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

from cached.client import Client

from bench.reading import place
from bench.report import Figure

_CLIENTS: Final = 8
_ROUNDS: Final = 5
_SECONDS: Final = 2.0
_FORK: Final = multiprocessing.get_context("fork")


def measure(_: Any) -> tuple[dict[str, Any], list[Figure]]:
    """Return the parameters and figures."""
    found: list[Figure] = []
    with place.serving(place.small_files()) as served:
        ways: dict[str, Callable[[Path, float], int]] = {"packets alone": _packets, "the client": _client}
        rounds: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(_ROUNDS):
            for way, work in ways.items():
                rounds[way].append(_round(served.node.pid, served.node.runtime, work))
        for way, results in rounds.items():
            rate = statistics.median(rate for rate, _ in results)
            spent = statistics.median(each for _, each in results)
            target = 20_000.0 if way == "packets alone" else None
            found += [
                Figure(f"{_CLIENTS} processes, {way}: opens", rate, "/s", target, ">="),
                Figure(f"{_CLIENTS} processes, {way}: processor of the daemon", spent * 1e6, "us/open"),
            ]
    return {"clients": _CLIENTS, "rounds": _ROUNDS, "seconds": _SECONDS, "files": place.FILES}, found


def _round(pid: int, runtime: Path, work: Callable[[Path, float], int]) -> tuple[float, float]:
    """Return opens a second of all clients, and the daemon's seconds of the processor for each."""
    until = time.monotonic() + 0.5 + _SECONDS
    before = place.processor_seconds(pid)
    with ProcessPoolExecutor(_CLIENTS, mp_context=_FORK) as pool:
        done = sum(pool.map(work, [runtime] * _CLIENTS, [until] * _CLIENTS))
    return done / _SECONDS, (place.processor_seconds(pid) - before) / max(1, done)


def _packets(runtime: Path, until: float) -> int:
    raw = place.Raw(runtime)
    try:
        return _opens(lambda name: os.close(raw.open(name)), until)
    finally:
        raw.close()


def _client(runtime: Path, until: float) -> int:
    with Client(runtime) as client:
        return _opens(lambda name: client.open(f"nr/{name}").close(), until)


def _opens(call: Callable[[str], None], until: float) -> int:
    names = random.Random(os.getpid()).sample(place.SMALL_FILES, place.FILES)
    call(names[0])
    time.sleep(max(0.0, until - _SECONDS - time.monotonic()))
    count = 0
    while time.monotonic() < until:
        call(names[count % place.FILES])
        count += 1
    return count
