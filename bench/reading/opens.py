"""Opening a small file of a set: on an open connection and on a new one, beside what else gives a job 4 KiB.

Each of the rounds opens so many files, another one each time, by turns; the figures are medians over all of them.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, Final

from cached.client import Client

from bench.objects import place as objects_place
from bench.reading import place
from bench.report import Figure

_ROUNDS: Final = 25
_OPENS: Final = 80

#: Opens, stops the clock by returning, and is told to clean up.
Open = Callable[[str], Callable[[], object]]


def measure(_: Any) -> tuple[dict[str, Any], list[Figure]]:
    """Return the parameters and figures."""
    ray, version = place.ray_or_reason()
    with (
        place.serving(place.small_files()) as served,
        objects_place.redis_server() as redis,
        contextlib.ExitStack() as undo,
    ):
        client = undo.enter_context(served.node.client())
        raw = place.Raw(served.node.runtime)
        undo.callback(raw.close)
        store = undo.enter_context(redis.raw())
        for name in place.SMALL_FILES:
            store.set(name, (served.plain / name).read_bytes())
        plain = partial(open, mode="rb")
        ways: dict[str, Open] = {
            "open": lambda name: client.open(f"nr/{name}").close,
            "open, a new connection": lambda name: _newly(served.node.runtime, name),
            "packets alone": lambda name: _raw(raw, name),
            "packets alone, a new connection": lambda name: _raw_newly(served.node.runtime, name),
            "open, read, close": lambda name: _read(client.open(f"nr/{name}", fetch=False)),
            "plain: open, read, close": lambda name: _read(plain(f"{served.plain}/{name}")),
            "Redis GET": lambda name: _nothing(store.get(name)),
        }
        if ray is not None:
            ways["Ray get"] = undo.enter_context(_rays(ray, served.plain))
        took = _by_turns(ways)
    targets = {"open": 80.0, "open, a new connection": 200.0}
    figures = [Figure(f"{way}, median", took[way] * 1e6, "us", targets.get(way)) for way in ways]
    parameters = {"files": place.FILES, "bytes": place.SMALL, "opens": _ROUNDS * _OPENS, "ray": version}
    return parameters, figures


def _by_turns(ways: dict[str, Open]) -> dict[str, float]:
    took: dict[str, list[float]] = {way: [] for way in ways}
    names = cycle(place.SMALL_FILES)
    for _ in range(_ROUNDS):
        for way, call in ways.items():
            call(next(names))()
            for _ in range(_OPENS):
                name = next(names)
                began = time.perf_counter()
                done = call(name)
                took[way].append(time.perf_counter() - began)
                done()
    return {way: statistics.median(values) for way, values in took.items()}


def _newly(runtime: Path, name: str) -> Callable[[], object]:
    client = Client(runtime)
    file = client.open(f"nr/{name}")

    def done() -> None:
        file.close()
        client.close()

    return done


def _raw(raw: place.Raw, name: str) -> Callable[[], object]:
    descriptor = raw.open(name)
    return lambda: os.close(descriptor)


def _raw_newly(runtime: Path, name: str) -> Callable[[], object]:
    raw = place.Raw(runtime)
    descriptor = raw.open(name)

    def done() -> None:
        os.close(descriptor)
        raw.close()

    return done


def _read(file: Any) -> Callable[[], object]:
    with file:
        return _nothing(file.read())


def _nothing(data: bytes) -> Callable[[], object]:
    if len(data) != place.SMALL:
        raise AssertionError(f"{len(data)} bytes instead of {place.SMALL}")
    return lambda: None


@contextlib.contextmanager
def _rays(ray: Any, plain: Path) -> Iterator[Open]:
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20)
    try:
        kept = {name: ray.put((plain / name).read_bytes()) for name in place.SMALL_FILES}
        yield lambda name: _nothing(ray.get(kept[name]))
    finally:
        ray.shutdown()
