"""Files that hang cost their user, and nobody else."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest
from cached.errors import Busy, TimedOut
from cached.hands import Hands


class Hanging:
    """Reads of a file system that does not answer, until it does."""

    def __init__(self) -> None:
        self.answer = threading.Event()
        self.ended = threading.Semaphore(0)

    def read(self, _hold: object) -> str:
        self.answer.wait()
        self.ended.release()
        return "late"


def test_what_a_thread_returns_or_raises_is_for_who_waits():
    async def story():
        hands = Hands()
        assert await hands.read("ada", lambda hold: (hold.go_on(), 7)) == (True, 7)
        with pytest.raises(ZeroDivisionError):
            await hands.read("ada", lambda _: 1 // 0)

    asyncio.run(story())


def test_a_user_whose_files_hang_keeps_no_other_from_reading_and_is_told():
    async def story():
        hands, hanging = Hands(each=2, silence=0.3), Hanging()
        stuck = [asyncio.create_task(hands.read("mallory", hanging.read)) for _ in range(3)]
        assert await hands.read("ada", lambda _: "quick") == "quick"
        answers = await asyncio.gather(*stuck, return_exceptions=True)
        assert sorted(type(answer).__name__ for answer in answers) == ["Busy", "TimedOut", "TimedOut"]
        with pytest.raises(Busy, match="2 files of this user"):
            await hands.read("mallory", hanging.read)
        assert await hands.read("ada", lambda _: "quick") == "quick"
        hanging.answer.set()
        for _ in range(2):
            assert await asyncio.to_thread(hanging.ended.acquire, timeout=60)
        assert await hands.read("mallory", lambda _: "again") == "again"

    asyncio.run(story())


def test_a_read_that_goes_on_may_take_as_long_as_it_likes():
    def slowly(hold):
        for _ in range(20):
            assert hold.go_on()
            threading.Event().wait(0.05)
        return "done"

    assert asyncio.run(Hands(silence=0.5).read("ada", slowly)) == "done"


def test_who_leaves_does_not_wait_and_the_thread_touches_nothing_of_others_afterwards():
    async def story():
        hands, come, go, told = Hands(), threading.Event(), threading.Event(), threading.Event()
        touched = []

        def work(hold):
            come.set()
            go.wait()
            assert not hold.go_on()
            try:
                with hold.with_others():
                    touched.append(1)
            except TimedOut:
                told.set()

        task = asyncio.create_task(hands.read("ada", work))
        assert await asyncio.to_thread(come.wait, 60)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        go.set()
        assert await asyncio.to_thread(told.wait, 60)
        assert not touched

    asyncio.run(story())


ENDS = """
import asyncio, threading
from cached.hands import Hands
async def story():
    task = asyncio.create_task(Hands().read("ada", lambda _: threading.Event().wait()))
    await asyncio.wait({task}, timeout=0.2)
    task.cancel()
asyncio.run(story())
print("ended")
"""


def test_a_process_ends_although_a_thread_hangs():
    ended = subprocess.run(
        [sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=120, check=True
    )
    assert ended.stdout == "ended\n"
