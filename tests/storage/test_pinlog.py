from __future__ import annotations

from pathlib import Path

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
    # no close: the daemon was killed
    assert PinLog(tmp_path / "pins", "boot-a").open() == {pin(2)}
    first.close()


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


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5))))
def test_the_log_holds_what_a_set_would_hold(tmp_path_factory, steps: list[tuple[bool, int]]) -> None:
    path = tmp_path_factory.mktemp("pins") / "pins"
    held: set[Pin] = set()
    book = PinLog(path, "b")
    book.open()
    for add, number in steps:
        (book.add if add else book.remove)(pin(number))
        (held.add if add else held.discard)(pin(number))
    book.close()
    assert PinLog(path, "b").open() == held
