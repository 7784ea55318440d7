"""A stream read by one thread, and its blocks written by two others where they are many small files."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from cached.errors import IntegrityFailed, PeerUnreachable
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


def drained(source, cutter, wanted, write=lambda _: None, written=lambda _: None, enough=lambda: False):
    async def run():
        with ThreadPoolExecutor(1) as threads:
            return await drain(threads, source, cutter, wanted, write, written, enough)

    return asyncio.run(run())


def numbered(size, count):
    return b"".join(number.to_bytes(4, "big").ljust(size, b".") for number in range(count))


@pytest.mark.parametrize("size", [1000, 3001, BLOCK // MANY + 7, 300_000])
@pytest.mark.parametrize("portion", [BLOCK, 700_001, 50_000])
def test_all_bytes_are_written_and_then_counted_in_order(size, portion):
    count = 5 * BLOCK // size + 3
    data, there, counted = numbered(size, count), {}, []

    def write(block):
        there.update((segment.leaf, bytes(part)) for segment, part in block)

    def written(block):
        assert all(there[segment.leaf] == part for segment, part in block)
        counted.extend(segment.leaf for segment, _ in block)

    assert drained(Bytes(data, portion), Lines(size), len(data), write, written)
    assert counted == list(range(count))
    assert b"".join(there[number] for number in range(count)) == data


def test_a_few_large_files_are_written_one_block_at_a_time_by_who_reads():
    data, writers = numbered(300_000, 20), set()
    assert drained(
        Bytes(data), Lines(300_000), len(data), lambda _: writers.add(threading.current_thread().name)
    )
    assert len(writers) == 1
    assert not any(name.startswith("direct-writing") for name in writers)


def test_two_blocks_of_many_files_are_written_at_a_time_and_the_next_is_read_meanwhile():
    data = numbered(1000, 4 * BLOCK // 1000)
    source, reads, together = Bytes(data), threading.Semaphore(0), threading.Barrier(2, timeout=60)
    read_into = source.read_into

    def counted(buffer):
        got = read_into(buffer)
        reads.release()
        return got

    source.read_into = counted
    waited = []

    def write(block):
        if block[0][0].leaf < 2 * BLOCK // 1000 - 1:  # the first two
            together.wait()
        if not block[0][0].leaf:
            waited.append(all(reads.acquire(timeout=60) for _ in range(3)))

    assert drained(source, Lines(1000), len(data), write)
    assert waited == [True]


@pytest.mark.parametrize("at", [0, 2])
def test_after_a_block_that_could_not_be_written_none_counts_and_nobody_works_any_more(at):
    data, counted, numbers = numbered(1000, 4 * BLOCK // 1000), [], []

    def write(block):
        number = round(block[0][0].leaf * 1000 / BLOCK)
        numbers.append(number)
        if number == at:
            raise IntegrityFailed("wrong")

    def written(block):
        counted.append(round(block[0][0].leaf * 1000 / BLOCK))

    source = Bytes(data)
    with pytest.raises(IntegrityFailed, match="wrong"):
        drained(source, Lines(1000), len(data), write, written)
    assert counted == list(range(at))
    assert at in numbers
    assert source.closed
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("direct-writing")]


def test_a_block_is_counted_before_a_stream_that_breaks_off_is_told_of():
    data, counted = numbered(1000, BLOCK // 1000), []
    assert not drained(Bytes(data), Lines(1000), 2 * len(data), written=counted.extend)
    assert len(counted) == BLOCK // 1000


def test_the_block_after_which_there_was_enough_is_counted():
    data, counted = numbered(1000, 3 * BLOCK // 1000), []
    assert drained(Bytes(data), Lines(1000), len(data), written=counted.extend, enough=lambda: True)
    assert len(counted) == BLOCK // 1000


def test_what_was_written_before_a_stream_broke_counts():
    data, counted = numbered(1000, 3 * BLOCK // 1000), []
    source = Bytes(data)
    read_into = source.read_into

    def breaking(buffer):
        if got := read_into(buffer):
            return got
        raise PeerUnreachable("it broke")

    source.read_into = breaking
    with pytest.raises(PeerUnreachable):
        drained(source, Lines(1000), 2 * len(data), written=counted.extend)
    assert [segment.leaf for segment, _ in counted] == list(range(3 * BLOCK // 1000))
