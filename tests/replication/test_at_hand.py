"""Few bytes that many ask for at the same time are read once."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest
from cached.replication import at_hand
from cached.replication.at_hand import AtHand


class Disk:
    """Counts what is read from it; waits until it may answer."""

    def __init__(self) -> None:
        self.read = 0
        self.may_answer = threading.Event()
        self.error: Exception | None = None

    def __call__(self) -> bytes:
        self.may_answer.wait(60)
        self.read += 1
        if self.error is not None:
            raise self.error
        return b"%d" % self.read


def test_all_who_ask_at_the_same_time_get_what_was_read_for_the_first():
    async def story() -> None:
        disk, bytes_ = Disk(), AtHand()
        asking = [asyncio.create_task(bytes_.get("a", disk)) for _ in range(8)]
        await asyncio.sleep(0)
        disk.may_answer.set()
        assert await asyncio.gather(*asking) == [b"1"] * 8
        assert await bytes_.get("a", disk) == b"1"
        assert disk.read == 1

    asyncio.run(story())


def test_whoever_asks_later_or_for_something_else_has_it_read_anew(monkeypatch):
    monkeypatch.setattr(at_hand, "STAYS", 0.0)

    async def story() -> None:
        disk, bytes_ = Disk(), AtHand()
        disk.may_answer.set()
        assert await bytes_.get("a", disk) == b"1"
        await asyncio.sleep(0.01)
        assert await bytes_.get("a", disk) == b"2"
        monkeypatch.setattr(at_hand, "STAYS", 3600.0)
        assert await bytes_.get("b", disk) == b"3"
        assert await bytes_.get("a", disk) == b"4"
        assert await bytes_.get("a", disk) == b"4"

    asyncio.run(story())


def test_of_what_was_read_before_nothing_is_kept(monkeypatch):
    monkeypatch.setattr(at_hand, "STAYS", 3600.0)

    async def story() -> None:
        bytes_ = AtHand()
        for key in range(3):
            await bytes_.get(key, lambda: bytes(1000))
        kept = weakref.ref(bytes_._now[1])
        await bytes_.get("other", lambda: b"")
        await asyncio.sleep(0)
        gc.collect()
        assert kept() is None

    asyncio.run(story())


def test_what_could_not_be_read_is_told_to_all_who_asked_and_read_anew_for_the_next():
    async def story() -> None:
        disk, bytes_ = Disk(), AtHand()
        disk.error = OSError("broken")
        asking = [asyncio.create_task(bytes_.get("a", disk)) for _ in range(2)]
        await asyncio.sleep(0)
        disk.may_answer.set()
        failures = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(one) for one in failures] == [OSError, OSError]
        disk.error = None
        assert await bytes_.get("a", disk) == b"2"

    asyncio.run(story())


def test_whoever_is_cancelled_leaves_it_to_the_others():
    async def story() -> None:
        disk, bytes_ = Disk(), AtHand()
        first, second = (asyncio.create_task(bytes_.get("a", disk)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        disk.may_answer.set()
        assert await second == b"1"

    asyncio.run(story())
