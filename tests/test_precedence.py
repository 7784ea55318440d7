"""Threads that copy step back, and never come forward."""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from cached import precedence
from cached.precedence import BULK, IDLE, answer_at_once, step_back

#: sched_getattr(2), and the kernel that first had slices of one's own.
_SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}
_SLICES_SINCE = (6, 12)


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


def _slice() -> int:
    """Return the slice of this thread in nanoseconds; 0 where threads have none of their own."""
    found = precedence._Attributes()
    number = _SCHED_GETATTR.get(platform.machine())
    if number is None or _kernel() < _SLICES_SINCE:
        return 0
    assert ctypes.CDLL(None).syscall(number, 0, ctypes.byref(found), ctypes.sizeof(found), 0) == 0
    return found.runtime


def _kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])


def test_who_answers_and_who_copies_has_a_short_slice_and_who_is_started_by_the_one_that_answers_has_not():
    usual = _slice()
    short = min(usual, precedence._SHORT)

    def started() -> int:
        with ThreadPoolExecutor(1) as other:
            return other.submit(_slice).result()

    with ThreadPoolExecutor(1, initializer=answer_at_once) as loop:
        assert loop.submit(_slice).result() == short
        assert loop.submit(started).result() == usual
        assert loop.submit(_nice).result() == _nice()
    with ThreadPoolExecutor(1, initializer=step_back, initargs=(BULK,)) as copier:
        assert copier.submit(_slice).result() == short
        assert copier.submit(started).result() == short
    assert _slice() == usual


def test_on_a_machine_of_another_kind_nothing_is_asked_of_the_kernel(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    monkeypatch.setattr(ctypes, "CDLL", lambda *_: pytest.fail("asked"))
    answer_at_once()
    step_back(0)
