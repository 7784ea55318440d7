"""The figures of a node for Prometheus, read from its state whenever they are asked for."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cached.node import object_metrics
from cached.node.node import Node


class NodeMetrics(Collector):
    """Registers a node, and other collectors beside it, with a registry of their own."""

    def __init__(self, node: Node, *others: object) -> None:
        self._node = node
        self.registry = CollectorRegistry()
        self.registry.register(self)
        for other in others:
            self.registry.register(other)  # type: ignore[arg-type]

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families of this moment."""
        node = self._node
        yield from self._tiers()
        replicas = GaugeMetricFamily("cached_replicas", "Replicas on this node", labels=["state"])
        states = [row.state for row in node.shelf.replicas.values()]
        for state in ("TRANSFERRING", "COMMITTED", "GOING"):
            replicas.add_metric([state], states.count(state))
        yield replicas
        living = sum(entry.alive for entry in node.directory.nodes())
        yield GaugeMetricFamily(
            "cached_nodes_alive", "Live nodes that this node knows, itself included", value=living
        )
        yield GaugeMetricFamily(
            "cached_open_handles", "Opens that pin a replica here", value=node.pins.count()
        )
        yield GaugeMetricFamily(
            "cached_transfers", "Transfers to this node under way", value=len(node.transfers)
        )
        events = CounterMetricFamily("cached_events", "What happened on this node, by name", labels=["event"])
        for event, count in node.counts().items():
            events.add_metric([event], count)
        yield events
        yield from object_metrics.collect(node)

    def _tiers(self) -> Iterator[Metric]:
        node = self._node
        used = GaugeMetricFamily("cached_bytes", "Physical bytes by tier and kind", labels=["tier", "kind"])
        for tier in node.stores:
            rows = [row for row in node.shelf.contents.values() if row.tier == tier]
            used.add_metric([tier, "limit"], node.space.capacity(tier))
            used.add_metric([tier, "free"], node.space.free(tier))
            used.add_metric([tier, "reserved"], node.space.reserved(tier))
            used.add_metric([tier, "committed"], sum(row.physical for row in rows if row.state == "STABLE"))
            used.add_metric([tier, "going"], sum(row.physical for row in rows if row.state == "GOING"))
        yield used
