"""A body on its way into a file whose descriptor belongs to somebody else."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from cached.api import spool
from cached.errors import NoSpace, TimedOut, UsageError
from cached.storage.files import open_spool


class File:
    """Notes what is reserved, and refuses more than `most` bytes."""

    def __init__(self, folder: Path, most: int = 1 << 40) -> None:
        self.descriptor = open_spool(folder)
        self.asked: list[int] = []
        self.most = most

    async def make_room(self, size: int) -> None:
        assert os.fstat(self.descriptor).st_size <= max(self.asked, default=0)
        if size > self.most:
            raise NoSpace("full")
        self.asked.append(size)


class Body:
    """What a client sends, a piece at a time."""

    def __init__(self, *pieces: bytes) -> None:
        self._left = list(pieces)

    async def readany(self) -> bytes:
        return self._left.pop(0) if self._left else b""


def taken(
    folder: Path, announced: int | None, *pieces: bytes, most: int = 1 << 40
) -> tuple[bytes, list[int]]:
    async def story() -> tuple[bytes, list[int]]:
        file = File(folder, most)
        try:
            size = await spool.take_in(Body(*pieces), announced, file)
            return os.pread(file.descriptor, size + 1, 0), file.asked
        finally:
            os.close(file.descriptor)

    return asyncio.run(story())


def test_what_comes_lies_in_the_file_and_nothing_else_does(tmp_path):
    assert taken(tmp_path, 8, b"one ", b"two.") == (b"one two.", [8])
    assert taken(tmp_path, None, b"one ", b"two.") == (b"one two.", [8])
    assert taken(tmp_path, 0) == (b"", [0])
    with pytest.raises(UsageError, match="8 bytes came of the 9"):
        taken(tmp_path, 9, b"one ", b"two.")


def test_a_body_of_unknown_length_is_reserved_step_by_step_and_always_before_it_is_written(tmp_path):
    piece = os.urandom(5 << 20)
    data, asked = taken(tmp_path, None, *[piece] * 14)
    assert data == piece * 14
    assert asked[:2] == [64 << 20] * 2
    assert max(asked) == 128 << 20


def test_a_body_that_finds_no_room_ends_there(tmp_path):
    with pytest.raises(NoSpace):
        taken(tmp_path, None, *[bytes(5 << 20)] * 14, most=100 << 20)


def test_no_thread_uses_the_descriptor_once_the_caller_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go, used = threading.Event(), threading.Event(), threading.Event()
    real = spool._put

    def slow(*args: Any) -> None:
        begun.set()
        assert go.wait(60)
        real(*args)
        used.set()

    monkeypatch.setattr(spool, "_put", slow)

    async def story() -> None:
        file = File(tmp_path)
        task = asyncio.create_task(spool.take_in(Body(b"some bytes"), 10, file))
        try:
            assert await asyncio.to_thread(begun.wait, 60)
            task.cancel()
            asyncio.get_running_loop().call_later(0.05, go.set)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert used.is_set()
        finally:
            go.set()
            os.close(file.descriptor)

    asyncio.run(story())


class Silent:
    """A client that sends something, and then nothing more."""

    def __init__(self, first: bytes) -> None:
        self._first = first

    async def readany(self) -> bytes:
        first, self._first = self._first, b""
        return first or await asyncio.Event().wait() or b""


def test_room_is_not_kept_for_what_was_announced_and_does_not_come(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "SILENCE", 0.1)

    async def story() -> None:
        file = File(tmp_path)
        try:
            with pytest.raises(TimedOut):
                await asyncio.wait_for(spool.take_in(Silent(b"some"), 1 << 30, file), 10)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(spool.take_in(Silent(b"some"), None, file), 0.5)
        finally:
            os.close(file.descriptor)

    asyncio.run(story())


def test_who_is_slow_and_gets_on_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "SILENCE", 0.1)
    monkeypatch.setattr(spool, "SLOWEST", 10)

    class Slow(Body):
        async def readany(self) -> bytes:
            await asyncio.sleep(0.03)
            return await super().readany()

    async def story() -> None:
        file = File(tmp_path)
        try:
            assert await spool.take_in(Slow(*[b"a"] * 10), 10, file) == 10
        finally:
            os.close(file.descriptor)

    asyncio.run(story())
