"""Blocking work of the origin: it has ended when whoever waited for it is told, and is no overlooked error."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest
from cached.origin.accounts import Accounts
from cached.origin.lanes import Lanes
from cached.origin.values import OriginStats


def test_work_that_fails_after_nobody_waits_for_it_has_ended_and_is_no_overlooked_error(caplog):
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()

    def failing() -> None:
        begun.set()
        assert go.wait(60)
        ended.set()
        raise OSError("the disk is full")

    async def story():
        accounts = Accounts(endpoint="", credentials=None, threads=1)
        lanes = Lanes(accounts, OriginStats(), threads=1, timeout=1.0, patience=1.0)
        work = asyncio.create_task(lanes.work(failing))
        assert await asyncio.to_thread(begun.wait, 60)
        work.cancel()
        await asyncio.sleep(0)
        work.cancel()  # whoever is in a hurry waits as well
        asyncio.get_running_loop().call_later(0.05, go.set)
        with pytest.raises(asyncio.CancelledError):
            await work
        assert ended.is_set()
        await lanes.close()
        del work
        gc.collect()

    asyncio.run(story())
    assert "never retrieved" not in caplog.text
