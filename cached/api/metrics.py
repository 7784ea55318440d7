"""What the local sockets count, for Prometheus.

The histogram is our own few lines: `open` on `data.sock` answers tens of thousands of requests a second, and
the library's locks would be a good part of each. The library itself is loaded with the first request for figures.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from prometheus_client.core import Metric

#: Upper bounds of the buckets, in seconds.
BOUNDS: Final = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0)
#: Content type of the Prometheus text format.
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Figures(Protocol):
    """Whoever has metric families to show: a collector of the library, or a registry of them."""

    def collect(self) -> Iterable[Metric]:
        """Return the metric families of this moment."""
        ...


class ApiMetrics:
    """Requests by operation and outcome, and open connections; used from the event loop alone."""

    def __init__(self) -> None:
        #: Requests by bucket, and their seconds in all, by operation.
        self._buckets: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}
        self._errors: Counter[tuple[str, str]] = Counter()
        #: Connections open at present, by socket.
        self.connections: Counter[str] = Counter()

    def answered(self, op: str, seconds: float) -> None:
        """Count a request that was answered, well or with an error."""
        buckets = self._buckets.get(op)
        if buckets is None:
            buckets = self._buckets[op] = [0] * (len(BOUNDS) + 1)
            self._sums[op] = 0.0
        buckets[bisect_left(BOUNDS, seconds)] += 1
        self._sums[op] += seconds

    def failed(self, op: str, code: str) -> None:
        """Count an error that a caller was given."""
        self._errors[(op, code)] += 1

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families, as a Prometheus registry wants them."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        requests = HistogramMetricFamily(
            "cached_request_seconds", "Time to answer a local request", labels=["op"]
        )
        for op, counts in self._buckets.items():
            requests.add_metric([op], _cumulative(counts), self._sums[op])
        yield requests
        errors = CounterMetricFamily(
            "cached_request_errors", "Local requests answered with an error", labels=["op", "code"]
        )
        for (op, code), count in self._errors.items():
            errors.add_metric([op, code], count)
        yield errors
        connections = GaugeMetricFamily(
            "cached_local_connections", "Open connections of local clients", labels=["socket"]
        )
        for name, number in self.connections.items():
            connections.add_metric([name], number)
        yield connections


def _cumulative(counts: list[int]) -> list[tuple[str, float]]:
    total = 0
    rows: list[tuple[str, float]] = []
    for bound, count in zip([*map(str, BOUNDS), "+Inf"], counts, strict=True):
        total += count
        rows.append((bound, total))
    return rows


def load() -> None:
    """Load the library; blocks for a moment, the first time."""
    import prometheus_client.core  # noqa: F401


def exposition(figures: Figures) -> bytes:
    """Return all metrics as text."""
    from prometheus_client import generate_latest

    return generate_latest(figures)
