"""Many small files at a time, and what is written back while they come."""

from __future__ import annotations

import errno
import os
import stat
import threading

import pytest
from cached.storage import small, writeback
from cached.storage.small import FEW, shared_out, write_new
from cached.storage.tree import Parents
from cached.storage.writeback import ENTRY, EVERY, Writeback


@pytest.fixture
def top(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture
def rounds(monkeypatch):
    """A file system whose syncs are counted, each of which waits for a permit."""

    class Rounds:
        begun = 0
        permits = threading.Semaphore(0)
        error: OSError | None = None

    def sync(_: int) -> None:
        Rounds.begun += 1
        Rounds.permits.acquire()
        if Rounds.error is not None:
            raise Rounds.error

    Rounds.begun, Rounds.permits, Rounds.error = 0, threading.Semaphore(0), None
    monkeypatch.setattr(writeback, "sync_filesystem", sync)
    return Rounds


def test_a_new_file_has_its_bytes_mode_and_time(tmp_path, top):
    with Parents(top, make=True) as parents:
        write_new(parents, "a/b/c", memoryview(b"bytes"), 0o555, mtime_ns=1_500_000_000_123_456_789)
    made = tmp_path / "a" / "b" / "c"
    assert made.read_bytes() == b"bytes"
    assert stat.S_IMODE(made.stat().st_mode) == 0o555
    assert made.stat().st_mtime_ns == 1_500_000_000_123_456_789


def test_what_is_there_stays_unless_it_is_to_be_replaced(tmp_path, top):
    (tmp_path / "f").write_bytes(b"before")
    with Parents(top) as parents, pytest.raises(FileExistsError):
        write_new(parents, "f", b"after", 0o444)
    assert (tmp_path / "f").read_bytes() == b"before"


def test_a_file_that_others_have_too_is_replaced_and_not_written_to(tmp_path, top):
    (tmp_path / "theirs").write_bytes(b"before")
    (tmp_path / "theirs").chmod(0o444)
    os.link(tmp_path / "theirs", tmp_path / "ours")
    with Parents(top) as parents:
        write_new(parents, "ours", b"after", 0o444, replace=True)
    assert (tmp_path / "ours").read_bytes() == b"after"
    assert (tmp_path / "theirs").read_bytes() == b"before"


@pytest.mark.parametrize("count", [0, 1, 2 * FEW - 1, 2 * FEW, 5 * FEW + 1])
def test_all_items_are_worked_on_once(count):
    done: list[int] = []
    shared_out(done.extend, range(count))
    assert sorted(done) == list(range(count))


@pytest.mark.parametrize("wrong", [0, 2 * FEW - 1])
def test_what_goes_wrong_with_one_item_is_raised_when_nobody_works_any_more(wrong):
    done: list[int] = []

    def work(items):
        for item in items:
            if item == wrong:
                raise ValueError(item)
            done.append(item)

    with pytest.raises(ValueError, match=str(wrong)):
        shared_out(work, range(2 * FEW))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("small")]
    assert wrong not in done


def test_many_items_are_worked_on_by_two_threads():
    together = threading.Barrier(2, timeout=60)
    shared_out(lambda _: together.wait(), range(2 * FEW))


def test_a_round_begins_when_much_is_written_and_no_second_one_beside_it(top, rounds):
    with Writeback(top) as early:
        early.wrote(EVERY - ENTRY - 1)
        assert rounds.begun == 0
        early.wrote(1, files=1)
        early.wrote(EVERY)
        rounds.permits.release(2)
        early.end()
        assert rounds.begun == 1
        early.wrote(0)
        early.end()
        assert rounds.begun == 2


def test_the_last_bytes_do_not_wait_for_more(top, rounds):
    rounds.permits.release(2)
    with Writeback(top) as early:
        early.hurry()
        assert rounds.begun == 0
        early.wrote(1)
        early.hurry()
        early.end()
        assert rounds.begun == 1


def test_an_error_of_the_device_is_told_at_the_end_once(top, rounds):
    rounds.error = OSError(errno.EIO, os.strerror(errno.EIO))
    rounds.permits.release()
    with Writeback(top) as early:
        early.wrote(EVERY)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            early.end()
        early.end()


def test_whoever_closes_waits_for_the_round(top, rounds):
    early = Writeback(top)
    early.wrote(EVERY)
    closing = threading.Thread(target=early.close)
    closing.start()
    rounds.permits.release()
    closing.join(60)
    assert not closing.is_alive()
    early.wrote(EVERY)
    early.close()
    assert rounds.begun == 1


def test_a_real_file_system_is_synced(top):
    with Writeback(top) as early:
        early.wrote(EVERY)
        early.end()


def test_fewer_than_two_shares_need_no_thread(monkeypatch):
    monkeypatch.setattr(small, "ThreadPoolExecutor", None)
    done: list[int] = []
    shared_out(done.extend, range(FEW))
    assert len(done) == FEW
