"""A body on its way into a file whose descriptor belongs to somebody else."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol
from cached.api import spool
from cached.storage.files import open_spool


@pytest.mark.parametrize("step", ["_append", "_check_room"])
def test_no_thread_uses_the_descriptor_once_the_caller_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    begun, go, used = threading.Event(), threading.Event(), threading.Event()
    real = getattr(spool, step)

    def slow(*args: Any) -> None:
        begun.set()
        assert go.wait(60)
        real(*args)
        used.set()

    monkeypatch.setattr(spool, step, slow)

    async def story() -> None:
        loop = asyncio.get_running_loop()
        body = StreamReader(BaseProtocol(loop), 1 << 16, loop=loop)
        body.feed_data(b"some bytes")
        body.feed_eof()
        fd = open_spool(tmp_path)
        task = asyncio.create_task(spool.take_in(body, 10, fd))
        try:
            assert await asyncio.to_thread(begun.wait, 60)
            task.cancel()
            loop.call_later(0.05, go.set)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert used.is_set()
        finally:
            go.set()
            os.close(fd)

    asyncio.run(story())
