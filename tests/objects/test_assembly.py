"""Parts of an object, written as they come."""

from __future__ import annotations

import asyncio
import tempfile

import pytest
from cached.errors import OriginChanged
from cached.objects.assembly import Assembly
from cached.objects.key import ObjectKey

KEY = ObjectKey("bucket", "name", 1)


@pytest.mark.parametrize("ending", ["too much comes", "nobody waits any more"])
def test_whoever_sends_is_told_to_stop_when_a_part_is_not_taken_to_its_end(ending):
    stopped = asyncio.Event()

    async def chunks():
        try:
            while True:
                yield bytes(1 << 20)
                await asyncio.sleep(0 if ending == "too much comes" else 60)
        finally:
            stopped.set()

    async def story():
        with tempfile.TemporaryFile() as file:
            sending = chunks()
            taking = asyncio.ensure_future(Assembly(KEY, 1000, file.fileno(), 1000).take(0, "peer", sending))
            await asyncio.sleep(0.05)
            taking.cancel()
            with pytest.raises((OriginChanged, asyncio.CancelledError)):
                await taking
            assert stopped.is_set(), "its connection is held no longer"

    asyncio.run(story())
