"""One reader of an object that no node has, beside the bare client of Cloud Storage, which gives 100 MB/s.

Both end with all bytes in memory: the library by `download_as_bytes`, the reader through a node by opening the object
and reading it into a buffer. By turns, an object of its own each time.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import Any, Final

from bench.objects import place
from bench.report import Figure

_SIZE: Final = 256 * 10**6
_RATE: Final = 100e6
_ROUNDS: Final = 3


def measure(_: Any) -> tuple[dict[str, Any], list[Figure]]:
    """Return the parameters and figures."""
    data = os.urandom(_SIZE)
    buffer = bytearray(_SIZE)
    with place.storage("cold") as storage, place.cluster() as made:
        (node,) = place.nodes(made, storage, objects_memory="1GB", objects_disk="2GB", store_capacity="4GB")
        bucket = _bucket()
        storage.put("cold", "first", data[:1000])
        bucket.blob("first").download_as_bytes()
        with node.client() as client:
            client.read_object("gs://cold/first")
            storage.rate = _RATE
            rounds, again, asked = [], [], 0
            for number in range(_ROUNDS):
                name = f"o{number}"
                storage.put("cold", name, data)
                bare = _timed(lambda name=name: bucket.blob(name).download_as_bytes())
                ours = _timed(lambda name=name: _read(client, name, buffer))
                if buffer != data:
                    raise AssertionError("other bytes came")
                rounds.append((ours, bare))
                before = storage.bytes_out
                again.append(_timed(lambda name=name: _read(client, name, buffer)))
                asked += storage.bytes_out - before
                storage.delete("cold", name)
                client.clear("gs://cold/")
    ratio = statistics.median(ours / bare for ours, bare in rounds)
    return {"bytes": _SIZE, "rate": _RATE, "rounds": _ROUNDS}, [
        Figure("cold read through the node", statistics.median(ours for ours, _ in rounds), "s"),
        Figure("bare client", statistics.median(bare for _, bare in rounds), "s"),
        Figure("times the bare client's time", ratio, "x", 1.05),
        Figure("bytes that the second reader costs Cloud Storage", asked, "", 0, "=="),
        Figure("second reader", statistics.median(again), "s"),
    ]


def _bucket() -> Any:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    return storage.Client(project="p", credentials=AnonymousCredentials()).bucket("cold")


def _read(client: Any, name: str, buffer: bytearray) -> None:
    with client.open(f"gs://cold/{name}") as file:
        if file.readinto(buffer) != len(buffer):
            raise AssertionError("fewer bytes came")


def _timed(call: Any) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
