"""`cached` itself, on the same links: what the others are compared with."""

from __future__ import annotations

from importlib.metadata import version as installed

from bench.bound import GOODPUT
from bench.swarm.run import NAME, Setting, prepared
from bench.watch import Watch

#: What the table calls it.
OURS = "cached"


def version() -> str:
    """Return what is measured."""
    return f"cached {installed('cachesets')}, as this tree has it"


def race(setting: Setting) -> tuple[float, float]:
    """Return seconds until all have the set, verified and synced, and the copies that left the source's link."""
    with prepared(setting) as cluster:
        with Watch(cluster.nodes) as watch, cluster.nodes[0].client() as client:
            client.replicate(NAME, replicas=setting.receivers, wait=True)
        seconds = max(watch.published[number] for number in range(1, setting.receivers + 1))
        return seconds, watch.sent(0)[-1][1] * GOODPUT / setting.size
