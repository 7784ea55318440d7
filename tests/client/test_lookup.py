"""What is looked up in the background: who waits, for how long, and what is remembered."""

from __future__ import annotations

import threading

import pytest
from cached.client.lookup import Lookup


class Source:
    """Finds what it is told to, when it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.found: str | None = "it"
        self.fails: Exception | None = None
        self.asked = 0
        self.now = 0.0

    def find(self) -> str | None:
        self.asked += 1
        self.go.wait(30)
        if self.fails is not None:
            raise self.fails
        return self.found

    def lookup(self, patience: float) -> Lookup[str]:
        return Lookup("it", self.find, patience=patience, absent=300.0, clock=lambda: self.now)


def finished(lookup: Lookup[str]) -> None:
    assert lookup._search is not None
    assert lookup._search.done.wait(30)


def test_what_is_found_in_time_is_returned_and_looked_up_once():
    source = Source()
    source.go.set()
    lookup = source.lookup(30.0)
    assert [lookup.get(), lookup.get()] == ["it", "it"]
    assert source.asked == 1


def test_what_takes_too_long_is_done_without_until_it_is_there_and_that_is_said_once(caplog):
    source = Source()
    lookup = source.lookup(0.0)
    assert [lookup.get(), lookup.get()] == [None, None]
    assert [record.getMessage() for record in caplog.records] == [
        "it: no answer within 0 s; going on without, and looking on in the background"
    ]
    source.go.set()
    finished(lookup)
    assert lookup.get() == "it"
    assert source.asked == 1


def test_that_there_is_nothing_is_remembered_for_minutes_and_then_nobody_waits_for_the_next_look():
    source = Source()
    source.found = None
    source.go.set()
    lookup = source.lookup(30.0)
    assert [lookup.get(), lookup.get()] == [None, None]
    assert source.asked == 1
    source.go.clear()
    source.found = "it"
    source.now = 301.0
    assert lookup.get() is None
    source.go.set()
    finished(lookup)
    assert lookup.get() == "it"
    assert source.asked == 2


def test_a_search_that_fails_is_told_and_tried_again():
    source = Source()
    source.go.set()
    source.fails = OSError("no network")
    lookup = source.lookup(30.0)
    with pytest.raises(OSError, match="no network"):
        lookup.get()
    source.fails = None
    assert lookup.get() == "it"
