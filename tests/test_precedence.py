"""Threads that copy step back, and never come forward."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

from cached.precedence import BULK, IDLE, step_back


def _nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_a_thread_that_steps_back_takes_those_it_starts_along_and_leaves_all_others_where_they_are():
    before = _nice()

    def inner() -> int:
        with ThreadPoolExecutor(1) as other:
            return other.submit(_nice).result()

    with ThreadPoolExecutor(1, initializer=step_back, initargs=(BULK,)) as copier:
        assert copier.submit(_nice).result() == max(BULK, before)
        assert copier.submit(inner).result() == max(BULK, before)
    assert _nice() == before


def test_who_has_stepped_further_back_does_not_come_forward():
    with ThreadPoolExecutor(1, initializer=step_back, initargs=(IDLE,)) as idle:
        idle.submit(step_back, BULK).result()
        assert idle.submit(_nice).result() == IDLE
