"""Why work waits for Cloud Storage is told to whoever follows it."""

from __future__ import annotations

import asyncio

from cached.addresses import Address
from cached.origin import waiting
from cached.origin.gcs import Gcs
from tests.origin.worlds import play

THERE = Address("b", "o")


def test_work_that_waits_says_why_and_no_more_once_it_goes_on(gcs):
    gcs.put("b", "o", b"data")
    origin = Gcs(threads=2, patience=600, first_wait=0.01)

    async def scene():
        gcs.faults.add("503", times=None)
        with waiting.followed() as followed:
            work = asyncio.create_task(origin.stat(THERE, token=None))
        with waiting.followed() as other:
            pass
        while not followed.reason:
            await asyncio.sleep(0.01)
        assert "Cloud Storage does not answer (HTTP 503" in followed.reason
        assert not other.reason, "nobody is told what others wait for"
        gcs.faults.clear()
        await work
        assert not followed.reason

    play(origin, scene)


def test_work_that_nobody_follows_tells_nobody():
    waiting.tell("nobody listens")
    with waiting.followed() as followed:
        pass
    assert followed.reason == ""
