"""What happens while a set travels: receivers that come at random times, one that leaves, stops, or gets slow."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Final

from cached.errors import NotFound

from bench.bound import alone, bound
from bench.cluster import Cluster, Node
from bench.swarm.run import NAME, Setting, payload
from bench.watch import Watch

#: The receiver to whom something happens.
VICTIM: Final = 1
#: Longest wait for the others, in bounds.
_PATIENCE: Final = 6


def late(setting: Setting, cluster: Cluster) -> dict[str, float]:
    """Let receivers ask for the set at random times within twice the bound; each is held against its own."""
    chance, asked = random.Random(setting.receivers), dict[int, float]()
    times = sorted(chance.uniform(0, 2 * setting.bound) for _ in range(setting.receivers))
    times[0] = 0.0
    cluster.wait_for(lambda: all(map(_has_heard, cluster.nodes)), "word of the set")
    with Watch(cluster.nodes) as watch:

        def arrive(number: int, when: float) -> None:
            time.sleep(when)
            asked[number] = time.monotonic() - watch.began
            with contextlib.closing(cluster.nodes[number].client()) as client:
                client.fetch(NAME)

        jobs = [threading.Thread(target=arrive, args=(number + 1, when)) for number, when in enumerate(times)]
        for job in jobs:
            job.start()
        for job in jobs:
            job.join()
    took = {number: watch.published[number] - when for number, when in asked.items()}
    there = {number: sum(done < asked[number] for done in watch.published.values()) - 1 for number in asked}
    ratios = {
        number: seconds / alone(setting.size, setting.source_rate, setting.rate, max(0, there[number]))
        for number, seconds in took.items()
    }
    return {
        "times bound": max(ratios.values()),
        "of the first": ratios[1],
        "second slowest": sorted(ratios.values())[-2],
        "median of receivers": sorted(ratios.values())[len(ratios) // 2],
        **payload(cluster, setting, sorted(asked)),
    }


def _has_heard(node: Node) -> bool:
    """Tell whether a node knows of the set: how fast word travels is no part of what is measured."""
    with contextlib.closing(node.client()) as client:
        try:
            client.show(NAME)
        except NotFound:
            return False
    return True


def leave(cluster: Cluster) -> None:
    """End the victim's daemon at once."""
    cluster.nodes[VICTIM].signal(signal.SIGKILL)


def stop(cluster: Cluster) -> None:
    """Stop the victim's processes; its connections stay open."""
    cluster.nodes[VICTIM].signal(signal.SIGSTOP)


def slow(cluster: Cluster, setting: Setting) -> None:
    """Give the victim a tenth of its link."""
    assert cluster.network is not None
    cluster.network.change(VICTIM, setting.rate / 10)


def fault(setting: Setting, cluster: Cluster, event: str) -> dict[str, float]:
    """Let something happen to one receiver half-way; the others are held against the bound without it."""
    happens: dict[str, Callable[[], None]] = {
        "leave": lambda: leave(cluster),
        "stop": lambda: stop(cluster),
        "slow": lambda: slow(cluster, setting),
    }
    others = list(range(2, setting.receivers + 1))
    least = bound(setting.size, setting.source_rate, [setting.rate] * len(others))
    source = cluster.nodes[0]
    with contextlib.closing(source.client()) as client, Watch(cluster.nodes) as watch:
        client.replicate(NAME, replicas=setting.receivers, wait=False)
        time.sleep(setting.bound / 2)
        happens[event]()
        cluster.wait_for(
            lambda: all(number in watch.published for number in others),
            "the others",
            _PATIENCE * setting.bound,
        )
    seconds = max(watch.published[number] for number in others)
    return {
        "seconds": seconds,
        "bound": least,
        "times bound": seconds / least,
        **payload(cluster, setting, others),
    }
