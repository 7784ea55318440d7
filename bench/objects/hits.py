"""A hit in local memory beside Redis: all bytes of an object read into a buffer that is there already.

The client of this node opens, reads and closes on a connection that is open; Redis answers GET to a plain redis-py
client on a Unix socket. By turns, one process that asks, freshness window open.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any, Final

from bench.objects import place
from bench.report import Figure

#: Size in MB, reads a round, how many times as fast as Redis a hit shall be.
_SIZES: Final = ((1, 100, 5.0), (64, 5, 20.0))
_ROUNDS: Final = 7
_OPENS: Final = 2000


def measure(_: Any) -> tuple[dict[str, Any], list[Figure]]:
    """Return the parameters and figures."""
    found: list[Figure] = []
    with place.storage("hits") as storage, place.redis_server() as redis, place.cluster() as made:
        (node,) = place.nodes(made, storage, objects_freshness="60s", objects_memory="1GB")
        with node.client() as client, redis.raw() as raw:
            for megabytes, reads, target in _SIZES:
                data = os.urandom(megabytes * 10**6)
                address = f"gs://hits/{megabytes}"
                storage.put("hits", str(megabytes), data)
                raw.set(str(megabytes), data)
                buffer = bytearray(len(data))

                def ours(address: str = address, buffer: bytearray = buffer) -> None:
                    with client.open(address) as file:
                        file.readinto(buffer)

                def theirs(key: str = str(megabytes), size: int = len(data)) -> None:
                    if len(raw.get(key)) != size:
                        raise AssertionError("Redis has not what it was given")

                with client.open_object(address, keep="memory") as file:
                    file.read()
                with client.open_object(address) as file:
                    if file.tier != "memory" or file.read() != data:
                        raise AssertionError(f"the copy of {address} is in {file.tier}")
                hit, get = _by_turns(ours, theirs, reads)
                found += [
                    Figure(f"{megabytes} MB: hit, all bytes read", hit * 1e3, "ms"),
                    Figure(f"{megabytes} MB: Redis GET", get * 1e3, "ms"),
                    Figure(f"{megabytes} MB: times as fast as Redis", get / hit, "x", target, ">="),
                ]
            found.append(Figure("open alone, median", _opens(client, "gs://hits/1") * 1e6, "us", 100.0))
    parameters = {"sizes_mb": [size for size, _, _ in _SIZES], "rounds": _ROUNDS, "opens": _OPENS}
    return parameters, found


def _by_turns(ours: Callable[[], None], theirs: Callable[[], None], reads: int) -> tuple[float, float]:
    """Return the median seconds a read of each, over rounds of so many."""
    rounds = [(_mean(ours, reads), _mean(theirs, reads)) for _ in range(_ROUNDS)]
    return statistics.median(one for one, _ in rounds), statistics.median(other for _, other in rounds)


def _mean(call: Callable[[], None], times: int) -> float:
    call()
    began = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - began) / times


def _opens(client: Any, address: str) -> float:
    took = []
    for _ in range(_OPENS):
        began = time.perf_counter()
        file = client.open(address)
        took.append(time.perf_counter() - began)
        file.close()
    return statistics.median(took)
