"""Files and directories are synced at once; where the kernel refuses that, one by one."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import contextmanager

import pytest
from cached.storage import together
from cached.storage.together import MOST, sync_all


@contextmanager
def opened(folder, count: int):
    """Open so many new files, and the directory that they lie in."""
    paths = [folder / f"{number:03d}" for number in range(count)]
    for path in paths:
        path.write_bytes(os.urandom(5000))
    descriptors = [os.open(path, os.O_RDONLY) for path in (*paths, folder)]
    try:
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@pytest.fixture
def one_by_one(monkeypatch) -> list[int]:
    """Return a list that gets each descriptor that is synced by itself."""
    synced, fsync = [], os.fsync

    def noted(descriptor: int) -> None:
        synced.append(descriptor)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    return synced


@pytest.fixture
def asked(monkeypatch) -> list[list[int]]:
    """Return a list that gets what each call has had under way at once."""
    calls, sync = [], together._Queue.sync

    def noted(queue, descriptors):
        begun, code = sync(queue, descriptors)
        calls.append(list(descriptors[:begun]))
        return begun, code

    monkeypatch.setattr(together._Queue, "sync", noted)
    return calls


@pytest.fixture
def refusing(monkeypatch):
    """Return what makes the kernel refuse new queues with an error, and how often it was asked."""
    monkeypatch.setattr(together._Queues, "_refused", False)
    monkeypatch.setattr(together._Queues, "_free", together.deque())
    times: list[int] = []

    def refuse(code: int) -> list[int]:
        def refused(*_):
            times.append(code)
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(together, "_call", refused)
        return times

    return refuse


@pytest.mark.parametrize("count", [1, 7, MOST - 1, MOST, 3 * MOST])
def test_all_are_under_way_at_once_as_many_as_a_queue_holds(tmp_path, asked, one_by_one, count):
    with opened(tmp_path, count) as descriptors:
        sync_all(descriptors)
    assert [one for call in asked for one in call] + one_by_one == descriptors
    assert len(one_by_one) <= 1  # the last one alone needs no queue
    assert max(map(len, asked)) == min(MOST, count + 1)


def test_one_or_none_needs_no_queue(tmp_path, asked, one_by_one):
    with opened(tmp_path, 0) as descriptors:
        sync_all([])
        sync_all(descriptors)
        assert (asked, one_by_one) == ([], descriptors)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_cannot_be_synced_is_an_error_wherever_it_stands(tmp_path, place):
    reading, writing = os.pipe()
    try:
        with opened(tmp_path, 2) as descriptors:
            descriptors.insert(place, writing)
            try:
                with pytest.raises(OSError, match="Invalid argument"):
                    sync_all(descriptors)
            finally:
                descriptors.remove(writing)
            sync_all(descriptors)
    finally:
        os.close(reading)
        os.close(writing)


def test_an_error_of_the_device_is_raised_once_nothing_is_under_way(tmp_path, monkeypatch):
    call, heard = together._call, []

    def failing(number, *arguments):
        answer = call(number, *arguments)
        if number == together._CALLS[together.platform.machine()][2] and answer:
            if not heard:
                arguments[3][0].result = -errno.EIO
            heard.append(answer)
        return answer

    monkeypatch.setattr(together, "_call", failing)
    with opened(tmp_path, 3) as descriptors:
        with pytest.raises(OSError, match="Input/output error"):
            sync_all(descriptors)
        assert sum(heard) == len(descriptors)
        sync_all(descriptors)


def test_what_the_kernel_does_not_take_at_once_is_taken_next(tmp_path, monkeypatch, one_by_one, asked):
    call = together._call

    def sparing(number, *arguments):
        if number == together._CALLS[together.platform.machine()][1]:
            context, _, places = arguments
            return call(number, context, together.ctypes.c_long(2), places)
        return call(number, *arguments)

    monkeypatch.setattr(together, "_call", sparing)
    with opened(tmp_path, 4) as descriptors:
        sync_all(descriptors)
        assert asked == [descriptors[:2], descriptors[2:4]]
        assert one_by_one == descriptors[4:]


def test_a_wait_that_a_signal_ends_is_gone_on_with(tmp_path, monkeypatch):
    call, interrupted = together._call, []

    def disturbed(number, *arguments):
        if number == together._CALLS[together.platform.machine()][2] and not interrupted:
            interrupted.append(1)
            raise InterruptedError(errno.EINTR, "a signal")
        return call(number, *arguments)

    monkeypatch.setattr(together, "_call", disturbed)
    with opened(tmp_path, 4) as descriptors:
        sync_all(descriptors)
    assert interrupted


def test_a_kernel_that_tells_nothing_is_not_used(tmp_path, monkeypatch, one_by_one):
    call = together._call
    monkeypatch.setattr(together._Queues, "_refused", False)
    monkeypatch.setattr(together._Queues, "_free", together.deque())

    def silent(number, *arguments):
        if number == together._CALLS[together.platform.machine()][2]:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        return call(number, *arguments)

    monkeypatch.setattr(together, "_call", silent)
    with opened(tmp_path, 3) as descriptors:
        sync_all(descriptors)
        assert one_by_one == descriptors


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM])
def test_a_kernel_that_refuses_is_asked_once_and_files_are_synced_one_by_one(
    tmp_path, refusing, one_by_one, code
):
    times = refusing(code)
    with opened(tmp_path, 3) as descriptors:
        sync_all(descriptors)
        sync_all(descriptors)
        assert one_by_one == [*descriptors, *descriptors]
    assert times == [code]


def test_a_kernel_that_has_none_just_now_is_asked_again(tmp_path, refusing, one_by_one):
    times = refusing(errno.EAGAIN)
    with opened(tmp_path, 3) as descriptors:
        sync_all(descriptors)
        sync_all(descriptors)
        assert one_by_one == [*descriptors, *descriptors]
    assert times == [errno.EAGAIN] * 2


def test_many_threads_sync_at_the_same_time_with_no_more_queues_than_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(together._Queues, "_free", together.deque())
    failed = []

    def work(number: int) -> None:
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            for _ in range(5):
                with opened(folder, 9) as descriptors:
                    sync_all(descriptors)
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed
    assert not any(thread.is_alive() for thread in threads)
    assert 1 <= len(together._Queues._free) <= 12


def test_a_process_that_was_forked_has_queues_of_its_own(tmp_path):
    with opened(tmp_path, 5) as descriptors:
        sync_all(descriptors)
        child = os.fork()
        if child == 0:
            try:
                queue = together._Queues.take()
                done = queue is not None and queue.sync(descriptors) == (len(descriptors), 0)
            except BaseException:
                done = False
            os._exit(0 if done else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        sync_all(descriptors)
