"""The event loop stays awake after a quick request, once, and otherwise waits as any other does."""

from __future__ import annotations

import asyncio
import os
import selectors
import threading
from collections.abc import Callable, Iterator

import pytest
from cached.api.wakeful import WakefulSelector
from cached.vigil import Vigil


class Counted(Vigil):
    """Looks once, and counts how often it was asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[object] = []

    def keep(self, arrived: Callable[[], object]) -> None:
        self.found.append(arrived())


@pytest.fixture
def vigil() -> Counted:
    return Counted()


@pytest.fixture
def selector(vigil: Counted) -> Iterator[WakefulSelector]:
    with WakefulSelector(vigil) as selector:
        yield selector


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_it_stays_awake_once_for_what_it_was_told_to_expect(selector, vigil):
    selector.select(0.001)
    assert vigil.found == []
    selector.expect()
    selector.expect()
    selector.select(0.001)
    selector.select(0.001)
    assert vigil.found == [[]]


def test_a_look_that_waits_for_nothing_is_no_wait(selector, vigil):
    selector.expect()
    selector.select(0)
    assert vigil.found == []
    selector.select(0.001)
    assert vigil.found == [[]]


def test_what_came_while_it_was_awake_is_there_at_once(selector, vigil, pipe):
    key = selector.register(pipe[0], selectors.EVENT_READ, "data")
    os.write(pipe[1], b"x")
    selector.expect()
    assert selector.select(None) == [(key, selectors.EVENT_READ)]
    assert vigil.found == [[(pipe[0], selectors.EVENT_READ)]]


def test_a_loop_with_it_does_what_a_loop_does():
    selector = WakefulSelector()

    async def run() -> list[str]:
        loop, said = asyncio.get_running_loop(), []
        done = loop.create_future()
        selector.expect()
        loop.call_later(0.01, said.append, "timer")
        threading.Timer(0.02, loop.call_soon_threadsafe, (done.set_result, None)).start()
        await done
        selector.expect()
        said.append(await asyncio.to_thread(lambda: "thread"))
        return said

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        assert runner.run(run()) == ["timer", "thread"]
