"""The figures of the object cache for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from cached.node import object_status
from cached.node.node import Node
from cached.node.object_events import counted
from cached.objects.account import HITS, PLACES


def collect(node: Node) -> Iterator[Metric]:
    """Yield the metric families of this moment."""
    yield from _reads(node)
    yield from _rooms(node)
    yield from _events(node.counters.snapshot())
    yield from _scaling(node)
    yield from _redis(node)
    yield from _origin(node)


def _reads(node: Node) -> Iterator[Metric]:
    node.objects.hits.settle()
    account = node.objects.account
    hits = [(place, account.places[place]) for place in PLACES if place in HITS]
    yield _counters(
        "cached_object_hits",
        "Reads of objects that Cloud Storage served no bytes of",
        "tier",
        ((place, one.reads) for place, one in hits),
    )
    yield _counters(
        "cached_object_hit_bytes",
        "Bytes of objects read without Cloud Storage",
        "tier",
        ((place, one.bytes) for place, one in hits),
    )
    misses = account.misses
    yield CounterMetricFamily(
        "cached_object_misses", "Reads of objects that Cloud Storage served bytes of", value=misses.reads
    )
    yield CounterMetricFamily(
        "cached_object_miss_bytes", "Bytes of objects that Cloud Storage served", value=misses.bytes
    )


def _rooms(node: Node) -> Iterator[Metric]:
    family = GaugeMetricFamily(
        "cached_object_bytes", "Bytes of copies of objects by tier and kind", labels=["tier", "kind"]
    )
    index = node.objects.tiers.index
    for tier, room in index.rooms.items():
        for kind, value in (
            ("limit", room.cap),
            ("used", room.used),
            ("reserved", room.reserved),
            ("free", room.free),
        ):
            family.add_metric([tier, kind], value)
    yield family
    yield GaugeMetricFamily("cached_object_copies", "Copies of objects, and of blocks of them", len(index))
    yield GaugeMetricFamily(
        "cached_object_open_handles", "Opens that pin a copy of an object", len(node.objects.pins)
    )


def _events(counts: Mapping[str, int]) -> Iterator[Metric]:
    yield _counters(
        "cached_object_admitted", "Copies that came into a tier", "tier", counted(counts, "objects.admitted")
    )
    yield _counters(
        "cached_object_gone", "Copies that left a tier, by reason", "reason", counted(counts, "objects.gone")
    )
    yield _counters(
        "cached_object_gone_bytes",
        "Bytes of copies that left a tier, by reason",
        "reason",
        counted(counts, "objects.gone_bytes"),
    )
    yield CounterMetricFamily(
        "cached_object_refused", "Objects that no tier took", value=counts.get("objects.refused", 0)
    )
    yield CounterMetricFamily(
        "cached_object_read_through",
        "Opens of objects that are read from Cloud Storage and not kept",
        value=counts.get("objects.read_through", 0),
    )


def _scaling(node: Node) -> Iterator[Metric]:
    figures = object_status.figures(node)
    yield GaugeMetricFamily(
        "cached_object_working_set_bytes", "Bytes of all objects read in the last hour", figures.working_set
    )
    yield _rate(
        "cached_object_working_set_fits", "Share of the working set that the tiers could hold", figures.fits
    )
    yield _rate(
        "cached_object_working_set_fits_memory",
        "Share of the working set that memory could hold",
        figures.fits_memory,
    )
    yield _rate(
        "cached_object_byte_hit_rate",
        "Share of the bytes read that Cloud Storage did not serve",
        figures.byte_hit_rate,
    )


def _redis(node: Node) -> Iterator[Metric]:
    if node.objects.shared is not None:
        up = node.objects.shared.state.partition(" ")[0] == "on"
        yield GaugeMetricFamily("cached_redis_up", "Whether the tier that nodes share answers", int(up))


def _origin(node: Node) -> Iterator[Metric]:
    asked = node.objects.origin.stats.snapshot()
    yield _counters(
        "cached_origin_requests", "Requests to Cloud Storage", "kind", counted(asked, "origin.requests")
    )
    yield _counters(
        "cached_origin_retries", "Requests repeated, by cause", "cause", counted(asked, "origin.retries")
    )
    yield _counters(
        "cached_origin_bytes",
        "Bytes of objects received from Cloud Storage and sent there, repeats included",
        "direction",
        (("in", asked["origin.bytes_in"]), ("out", asked["origin.bytes_out"])),
    )


def _counters(name: str, text: str, label: str, values: Iterable[tuple[str, int]]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in values:
        family.add_metric([value], count)
    return family


def _rate(name: str, text: str, value: float | None) -> Metric:
    """Return a share; as long as there is none, a family without a value."""
    family = GaugeMetricFamily(name, text, labels=[])
    if value is not None:
        family.add_metric([], value)
    return family
