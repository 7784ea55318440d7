from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from cached.budget import LEAST, MOST, TRICKLE, Budget, PacedWriter


def timed(work: Callable[[], Coroutine[Any, Any, None]]) -> float:
    async def run() -> float:
        begun = asyncio.get_running_loop().time()
        await work()
        return asyncio.get_running_loop().time() - begun

    return asyncio.run(run())


def test_what_is_taken_keeps_within_the_rate():
    async def take() -> None:
        budget = Budget(1_000_000)
        for _ in range(10):
            await budget.take(50_000)
        assert budget.taken == 500_000

    # The last piece is not waited out, and a tenth of a second may be caught up with.
    assert timed(take) >= 0.3


def test_what_moved_past_the_lines_is_paid_for_by_those_who_wait():
    async def take() -> None:
        budget = Budget(1_000_000)
        await budget.take(1)
        budget.spend(600_000, past=0.1)
        await budget.take(1)

    assert timed(take) >= 0.45


def test_who_a_job_waits_for_goes_first_and_the_others_get_one_turn_in_ten():
    async def take() -> list[str]:
        budget, order = Budget(1), []

        async def one(who: str) -> None:
            await budget.take(5_000, first=who == "job")
            order.append(who)

        await budget.take(150_000)  # a debt for a day: all wait before anybody's turn comes
        others = [asyncio.create_task(one("other")) for _ in range(3)]
        await asyncio.sleep(0)
        jobs = [asyncio.create_task(one("job")) for _ in range(20)]
        await asyncio.sleep(0)
        budget.limit(1_000_000)
        await asyncio.gather(*others, *jobs)
        return order

    assert asyncio.run(take()) == ["job"] * 9 + ["other"] + ["job"] * 9 + ["other"] + ["job"] * 2 + ["other"]


def test_while_held_others_trickle_and_who_a_job_waits_for_does_not_wait():
    async def take() -> None:
        budget = Budget()
        budget.hold(True)
        for _ in range(3):
            await budget.take(TRICKLE // 8)
        assert [len(piece) async for piece in budget.pieces(bytes(TRICKLE // 8), first=False)] == [
            TRICKLE // 8
        ]
        await budget.take(1 << 30, first=True)

    assert timed(take) >= 0.3


def test_whoever_waits_goes_on_at_once_when_the_limit_is_lifted():
    async def lift() -> None:
        budget = Budget(1)
        await budget.take(1_000_000)
        waiting = [asyncio.create_task(budget.take(1_000_000)) for _ in range(3)]
        await asyncio.sleep(0)
        assert budget.waiting
        budget.limit(None)
        await asyncio.gather(*waiting)
        assert not budget.waiting

    asyncio.run(asyncio.wait_for(lift(), 60))


def test_a_new_rate_counts_for_what_was_taken_before():
    async def change() -> None:
        budget = Budget(1)
        await budget.take(1_000_000)
        budget.limit(10_000_000)
        await budget.take(1)

    assert timed(change) >= 0.08


def test_who_gives_up_waiting_leaves_the_line_to_the_next():
    async def scene() -> None:
        budget = Budget(1_000_000)
        await budget.take(200_000)
        gone, next_one = asyncio.create_task(budget.take(10**12)), asyncio.create_task(budget.take(1))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        await next_one

    asyncio.run(asyncio.wait_for(scene(), 60))


def test_a_writer_sends_all_bytes_in_order_in_pieces_that_fit_the_rate():
    class Kept:
        def __init__(self) -> None:
            self.pieces: list[bytes] = []

        def length(self, total: int) -> None:
            self.total = total

        async def write(self, data: bytes | bytearray | memoryview) -> None:
            self.pieces.append(bytes(data))

    async def send(rate: int | None) -> Kept:
        kept = Kept()
        writer = PacedWriter(kept, Budget(rate), first=False)
        writer.length(len(sent))
        await writer.write(sent)
        return kept

    sent = bytes(range(256)) * 4096
    free = asyncio.run(send(None))
    assert free.pieces == [sent]
    assert free.total == len(sent)
    limited = asyncio.run(send(4_000_000))
    assert b"".join(limited.pieces) == sent
    assert LEAST <= max(map(len, limited.pieces)) <= 500_000 < MOST
