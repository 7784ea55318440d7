"""When news goes: soon, or with what goes next where it may wait."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from cached.peers.gossip import News
from cached.peers.rumours import Rumours

SOON, LATE, NEVER = 0.02, 0.4, 3600.0


class Told:
    """Rumours of one node with one listener; `went` says what it was told, and how long after the start."""

    def __init__(self) -> None:
        self.went: list[tuple[frozenset[str], float]] = []
        gossip = SimpleNamespace(
            rumour=lambda nodes, sets, revocations: News(want_nodes=sorted(nodes), want_sets=sorted(sets)),
            tell=self._tell,
        )
        self.rumours = Rumours(gossip, lambda: ["b"], SOON)

    async def _tell(self, node_id, news):
        self.went.append(
            (frozenset(news.want_nodes + news.want_sets), asyncio.get_running_loop().time() - self.began)
        )

    async def play(self, scene, wanted: int) -> None:
        self.began = asyncio.get_running_loop().time()
        task = asyncio.create_task(self.rumours.run())
        try:
            await scene()
            async with asyncio.timeout(60):
                while len(self.went) < wanted:
                    await asyncio.sleep(0.005)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def played(scene, wanted: int = 1) -> list[tuple[frozenset[str], float]]:
    async def story():
        told = Told()
        await told.play(lambda: scene(told.rumours), wanted)
        return told.went

    return asyncio.run(story())


def test_a_burst_of_news_goes_as_one():
    async def scene(rumours):
        rumours.spread(nodes=["x"])
        rumours.spread(sets=["s"])

    [(what, when)] = played(scene)
    assert what == {"x", "s"}
    assert when >= SOON


def test_news_that_may_wait_goes_when_its_time_is_over():
    async def scene(rumours):
        rumours.spread(nodes=["x"], within=LATE)

    [(what, when)] = played(scene)
    assert what == {"x"}
    assert when >= LATE


def test_news_that_may_wait_goes_with_the_next_that_may_not():
    async def scene(rumours):
        rumours.spread(nodes=["x"], within=NEVER)
        await asyncio.sleep(SOON)
        rumours.spread(sets=["s"])

    [(what, _)] = played(scene)
    assert what == {"x", "s"}


@pytest.mark.parametrize("later", [None, NEVER])
def test_later_news_puts_off_nothing_that_is_due_sooner(later):
    async def scene(rumours):
        rumours.spread(nodes=["x"], within=None if later else LATE)
        rumours.spread(nodes=["y"], within=NEVER)

    [(what, _)] = played(scene)
    assert what == {"x", "y"}


def test_what_comes_after_the_news_has_gone_waits_for_its_own_time():
    async def scene(rumours):
        rumours.spread(nodes=["x"])
        await asyncio.sleep(5 * SOON)
        rumours.spread(nodes=["y"])

    assert [what for what, _ in played(scene, 2)] == [{"x"}, {"y"}]
