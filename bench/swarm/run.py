"""One run: a set is created on the source and brought to all receivers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from bench.bound import bound
from bench.cluster import Cluster, clustered, write_files
from bench.network import congestion
from bench.watch import Watch

NAME: Final = "bench"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured. Rates are Mbit/s; 0 means loopback, as fast as it goes."""

    receivers: int
    size: int
    rate: float
    source_rate: float
    files: int = 4
    encryption: str = "tls"
    congestion: str = field(default_factory=congestion)

    @property
    def bound(self) -> float:
        """Return the fewest seconds in which all receivers can have it."""
        return bound(self.size, self.source_rate, [self.rate] * self.receivers)


@contextlib.contextmanager
def prepared(setting: Setting) -> Iterator[Cluster]:
    """Give a cluster whose first node holds the set."""
    links = [setting.source_rate, *[setting.rate] * setting.receivers] if setting.rate else []
    capacity = 4 * setting.size + (1 << 30)
    with clustered(
        setting.receivers + 1,
        capacity=capacity,
        rates=links,
        control=setting.congestion,
        encryption=setting.encryption,
    ) as cluster:
        write_files(cluster.root / "data", setting.size, setting.files)
        cluster.nodes[0].json("create", NAME, str(cluster.root / "data"), "--replicas", "0")
        yield cluster


def measure(
    setting: Setting,
    keep_logs: str = "",
    during: Callable[[Setting, Cluster], dict[str, float]] | None = None,
) -> dict[str, float]:
    """Return the figures of one run, see `bench.swarm.__main__`; `during`: bring the set there in another way."""
    with prepared(setting) as cluster:
        try:
            return (during or replicated)(setting, cluster)
        finally:
            if keep_logs:
                cluster.keep_logs(keep_logs)


def replicated(setting: Setting, cluster: Cluster) -> dict[str, float]:
    """Bring the set to all receivers at once."""
    source = cluster.nodes[0]
    cpu = cluster.cpu()
    with contextlib.closing(source.client()) as client, Watch(cluster.nodes) as watch:
        client.replicate(NAME, replicas=setting.receivers, wait=True)
    cpu = cluster.cpu() - cpu
    everybody = list(range(1, setting.receivers + 1))
    seconds = max(watch.published[number] for number in everybody)
    figures = {"seconds": seconds} | payload(cluster, setting, everybody)
    figures["cpu"] = cpu / (setting.size * setting.receivers / (1 << 30))
    figures["processors"] = cpu / seconds
    if not setting.rate:
        return figures | {"MB/s": setting.size / 1e6 / seconds}
    first, last = watch.span(setting.size, everybody)
    return figures | {
        "bound": setting.bound,
        "times bound": seconds / setting.bound,
        "wire": (last - first) / setting.bound,
        "start": first,
        "end": seconds - last,
    }


def payload(cluster: Cluster, setting: Setting, numbers: list[int]) -> dict[str, float]:
    """Return the copies that left the source, and the share of bytes that these nodes got twice."""
    got = [cluster.nodes[number].traffic() for number in numbers]
    return {
        "copies": cluster.nodes[0].traffic()["bytes_sent"] / setting.size,
        "redundant": sum(one["bytes_redundant"] for one in got)
        / max(1, sum(one["bytes_received"] for one in got)),
    }
