from __future__ import annotations

from pathlib import Path

import pytest
from cached.leases.pin import Pin, Process
from cached.storage.pinlog import PinLog
from hypothesis import given
from hypothesis import strategies as st


def pin(number: int) -> Pin:
    return Pin(f"{number:032x}", f"{number:064x}", Process(number + 1, 1000 + number))


def test_pins_are_found_again_after_the_daemon_was_killed(tmp_path: Path) -> None:
    first = PinLog(tmp_path / "pins", "boot-a")
    first.open()
    first.add(pin(1))
    first.add(pin(2))
    first.remove(pin(1))
    first.flush()
    # no close: the daemon was killed
    assert PinLog(tmp_path / "pins", "boot-a").open() == {pin(2)}
    first.close()


def test_a_pin_that_was_just_let_go_may_be_found_again_and_one_that_holds_always_is(tmp_path: Path) -> None:
    first = PinLog(tmp_path / "pins", "boot-a")
    first.open()
    for number in (1, 2):
        first.add(pin(number))
        first.remove(pin(number))
    first.add(pin(2))
    first.flush()
    first.add(pin(3))
    first.remove(pin(3))
    first.add(pin(3))
    # no close: the daemon was killed
    assert PinLog(tmp_path / "pins", "boot-a").open() == {pin(2), pin(3)}
    first.close()


def test_whoever_opens_and_closes_again_and_again_writes_nothing(tmp_path: Path) -> None:
    log = PinLog(tmp_path / "pins", "boot-a")
    log.open()
    log.add(pin(1))
    before = (tmp_path / "pins").read_bytes()
    for _ in range(1000):
        log.remove(pin(1))
        log.add(pin(1))
    assert (tmp_path / "pins").read_bytes() == before
    log.close()


def test_pins_let_go_are_written_down_before_there_are_very_many(tmp_path: Path) -> None:
    log = PinLog(tmp_path / "pins", "boot-a")
    log.open()
    for number in range(1000):
        log.add(pin(number))
        log.remove(pin(number))
    # no close: the daemon was killed
    assert len(PinLog(tmp_path / "pins", "boot-a").open()) < 500
    log.close()


def test_pins_of_an_earlier_boot_are_void(tmp_path: Path) -> None:
    first = PinLog(tmp_path / "pins", "boot-a")
    first.open()
    first.add(pin(1))
    first.close()
    assert PinLog(tmp_path / "pins", "boot-b").open() == frozenset()


def test_a_torn_last_line_loses_only_itself(tmp_path: Path) -> None:
    first = PinLog(tmp_path / "pins", "boot-a")
    first.open()
    first.add(pin(1))
    first.close()
    raw = (tmp_path / "pins").read_bytes().rstrip(b"\0")
    (tmp_path / "pins").write_bytes(raw + b"+ 000000 00")
    assert PinLog(tmp_path / "pins", "boot-a").open() == {pin(1)}


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "flush"]), st.integers(0, 5))), st.booleans())
def test_the_log_holds_what_a_set_would_hold_and_a_killed_one_no_less(
    tmp_path_factory, steps: list[tuple[str, int]], killed: bool
) -> None:
    path = tmp_path_factory.mktemp("pins") / "pins"
    held: set[Pin] = set()
    unwritten: set[Pin] = set()
    book = PinLog(path, "b")
    book.open()
    for step, number in steps:
        if step == "flush":
            book.flush()
            unwritten.clear()
            continue
        getattr(book, step)(pin(number))
        unwritten |= {pin(number)} if step == "remove" else set()
        (held.add if step == "add" else held.discard)(pin(number))
    if killed:
        assert held <= PinLog(path, "b").open() <= held | unwritten
        book.close()
        return
    book.close()
    assert PinLog(path, "b").open() == held


@pytest.mark.parametrize("killed", [True, False])
def test_a_log_that_has_grown_is_written_anew_and_says_the_same(tmp_path: Path, killed: bool) -> None:
    path = tmp_path / "pins"
    book = PinLog(path, "b")
    book.open()
    for number in range(3000):
        book.add(pin(number))
        if number >= 10:
            book.remove(pin(number - 10))
    if killed:
        book.flush()
    else:
        book.close()
    assert path.stat().st_size < 1 << 20
    assert PinLog(path, "b").open() == {pin(number) for number in range(2990, 3000)}
    book.close()
