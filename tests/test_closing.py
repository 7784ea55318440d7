"""What a user handed over may hang when it is closed: that is no reason for anybody else to wait."""

from __future__ import annotations

import os
import threading
import time

import pytest
from cached import hands


def opened(count: int) -> list[int]:
    return [os.open("/dev/null", os.O_RDONLY) for _ in range(count)]


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def until(predicate) -> None:
    ends = time.monotonic() + 10
    while not predicate():
        assert time.monotonic() < ends
        time.sleep(0.005)


def test_one_user_s_file_that_hangs_when_it_is_closed_holds_up_nobody_else(monkeypatch: pytest.MonkeyPatch):
    over, hangs = threading.Event(), opened(1)
    close_all = hands.close_all

    def close(descriptors):
        if list(descriptors) == hangs:
            over.wait()
        close_all(descriptors)

    monkeypatch.setattr(hands, "close_all", close)
    all_of_them, others = hands.Closing(), opened(3)
    all_of_them.close("ada", hangs)
    behind = opened(5)
    all_of_them.close("ada", behind)
    all_of_them.close("bob", others)
    until(lambda: all_of_them.left("bob") == 0)
    assert not any(map(is_open, others))
    assert all_of_them.left("ada") == 6
    assert all(map(is_open, behind))
    over.set()
    until(lambda: all_of_them.left("ada") == 0)
    assert not any(map(is_open, hangs + behind))


def test_what_is_handed_over_again_and_again_is_closed_every_time():
    all_of_them = hands.Closing()
    descriptors = [opened(2) for _ in range(200)]
    for each in descriptors:
        all_of_them.close("ada", each)
    all_of_them.close("ada", [])
    until(lambda: all_of_them.left("ada") == 0)
    assert not any(is_open(one) for each in descriptors for one in each)
