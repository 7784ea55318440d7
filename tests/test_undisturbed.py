"""Work in threads whose caller is cancelled: it ends, and nobody loses what it made."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable

import pytest
from cached.critical import to_the_end
from cached.undisturbed import undisturbed

Opening = Callable[[Callable[[], int], Callable[[int], object]], Awaitable[int]]


def to_its_end(open_one: Callable[[], int], late: Callable[[int], object]) -> Awaitable[int]:
    return to_the_end(asyncio.to_thread(open_one), late)


@pytest.mark.parametrize("opening", [undisturbed, to_its_end])
def test_a_descriptor_that_is_opened_for_somebody_who_has_left_is_closed(opening: Opening) -> None:
    async def story() -> None:
        begun, go, opened, closed = threading.Event(), threading.Event(), [], asyncio.Event()

        def open_one() -> int:
            begun.set()
            assert go.wait(60)
            opened.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
            return opened[0]

        def close_it(fd: int) -> None:
            os.close(fd)
            closed.set()

        task = asyncio.ensure_future(opening(open_one, close_it))
        async with asyncio.timeout(60):
            assert await asyncio.to_thread(begun.wait, 60)
            task.cancel()
            await asyncio.sleep(0)
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            await closed.wait()
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(opened[0])

    asyncio.run(story())


@pytest.mark.parametrize("opening", [undisturbed, to_its_end])
def test_a_descriptor_that_somebody_waits_for_stays_open(opening: Opening) -> None:
    async def story() -> None:
        fd = await opening(lambda: os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), os.close)
        os.fstat(fd)
        os.close(fd)

    asyncio.run(story())
