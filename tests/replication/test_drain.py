"""A stream read by one thread, and its blocks written by another where they are many small files."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from cached.errors import IntegrityFailed
from cached.replication.drain import BLOCK, MANY, drain
from cached.replication.segments import Segment


class Lines:
    """Cuts bytes into files of so many bytes each."""

    def __init__(self, size) -> None:
        self._size = size
        self._number = 0

    def cut(self, data):
        block, at = [], 0
        while len(data) - at >= self._size:
            block.append(
                (Segment(f"f{self._number}", 0, self._size, self._number), data[at : at + self._size])
            )
            at += self._size
            self._number += 1
        return block, data[at:]


class Bytes:
    """A source of bytes that comes in portions of so many."""

    def __init__(self, data, portion=BLOCK) -> None:
        self._data, self._portion = memoryview(data), portion
        self.closed = False

    def read_into(self, buffer):
        got = min(len(buffer), len(self._data), self._portion)
        buffer[:got] = self._data[:got]
        self._data = self._data[got:]
        return got

    def stop(self):
        pass

    def close(self):
        self.closed = True


def drained(source, cutter, wanted, take, enough=lambda: False):
    async def run():
        with ThreadPoolExecutor(1) as threads:
            return await drain(threads, source, cutter, wanted, take, enough)

    return asyncio.run(run())


def numbered(size, count):
    return b"".join(number.to_bytes(4, "big").ljust(size, b".") for number in range(count))


@pytest.mark.parametrize("size", [1000, 3001, BLOCK // MANY + 7, 300_000])
@pytest.mark.parametrize("portion", [BLOCK, 700_001, 50_000])
def test_all_bytes_are_taken_in_order_one_block_at_a_time(size, portion):
    count = 5 * BLOCK // size + 3
    data, came, inside = numbered(size, count), [], threading.Lock()

    def take(block):
        assert inside.acquire(blocking=False)
        came.extend((segment.leaf, bytes(part)) for segment, part in block)
        inside.release()

    assert drained(Bytes(data, portion), Lines(size), len(data), take)
    assert [number for number, _ in came] == list(range(count))
    assert b"".join(part for _, part in came) == data


def test_the_next_block_of_many_files_is_read_while_one_is_taken():
    data = numbered(1000, 3 * BLOCK // 1000)
    source, reads = Bytes(data), threading.Semaphore(0)
    read_into = source.read_into

    def counted(buffer):
        got = read_into(buffer)
        reads.release()
        return got

    source.read_into = counted
    waited = []

    def take(_):
        if not waited:
            waited.append(reads.acquire(timeout=60) and reads.acquire(timeout=60))

    assert drained(source, Lines(1000), len(data), take)
    assert waited == [True]


@pytest.mark.parametrize("at", [0, 2])
def test_an_error_of_any_block_is_raised_and_nobody_works_any_more(at):
    data, taken = numbered(1000, 3 * BLOCK // 1000), []

    def take(block):
        taken.append(block[0][0].leaf)
        if len(taken) == at + 1:
            raise IntegrityFailed("wrong")

    source = Bytes(data)
    with pytest.raises(IntegrityFailed, match="wrong"):
        drained(source, Lines(1000), len(data), take)
    assert len(taken) == at + 1
    assert source.closed
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("direct-taking")]


def test_a_block_is_taken_before_a_stream_that_breaks_off_is_told_of():
    data, taken = numbered(1000, BLOCK // 1000), []
    assert not drained(Bytes(data), Lines(1000), 2 * len(data), taken.extend)
    assert len(taken) == BLOCK // 1000


def test_the_block_after_which_there_was_enough_is_taken():
    data, taken = numbered(1000, 3 * BLOCK // 1000), []
    assert drained(Bytes(data), Lines(1000), len(data), taken.extend, lambda: True)
    assert len(taken) == BLOCK // 1000
