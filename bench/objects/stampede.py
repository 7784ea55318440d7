"""Jobs on all nodes open one object at once that no node has: what Cloud Storage is asked for.

Each job reads all bytes and compares their checksum. Ranges asked for are taken from the requests of the fake.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import google_crc32c

from bench.objects import place
from bench.report import Figure

_NODES: Final = 8
_JOBS: Final = 64
_SIZE: Final = 256 * 10**6
_PIECE: Final = 1 << 20


def measure(_: Any) -> tuple[dict[str, Any], list[Figure]]:
    """Return the parameters and figures."""
    data = os.urandom(_SIZE)
    crc = google_crc32c.value(data)
    with place.storage("stampede") as storage, place.cluster() as made:
        nodes = place.nodes(made, storage, _NODES, objects_memory="512MB", objects_disk="1GB")
        storage.put("stampede", "cold", data)
        storage.reset_counters()
        barrier = threading.Barrier(_JOBS)

        def job(number: int) -> bool:
            with nodes[number % _NODES].client() as client:
                barrier.wait()
                with client.open("gs://stampede/cold") as file:
                    return _crc(file) == crc

        began = time.perf_counter()
        with ThreadPoolExecutor(_JOBS) as pool:
            right = sum(pool.map(job, range(_JOBS)))
        seconds = time.perf_counter() - began
        ranges = Counter(map(tuple, storage.media))
        counts, out = storage.counts, storage.bytes_out
    return {"nodes": _NODES, "jobs": _JOBS, "bytes": _SIZE}, [
        Figure("bytes that Cloud Storage gave, of the object's", out / _SIZE, "x", 1.0, "=="),
        Figure("ranges that were asked for twice", sum(many > 1 for many in ranges.values()), "", 0, "=="),
        Figure("jobs that read the right bytes", right, "", _JOBS, "=="),
        Figure("requests for bytes", counts["media"]),
        Figure("questions about the object, one for each open", counts["stat"]),
        Figure("until all jobs had read all bytes", seconds, "s"),
    ]


def _crc(file: Any) -> int:
    crc, buffer = 0, bytearray(_PIECE)
    while size := file.readinto(buffer):
        crc = google_crc32c.extend(crc, bytes(memoryview(buffer)[:size]))
    return crc
