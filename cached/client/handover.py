"""Handing files over to the daemon: packets of entries with their descriptors, a few of them unanswered at a
time.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final, Self

from cached import packets, wire
from cached.client.channel import Channel, Watcher, creating
from cached.client.walk import Found, Source

#: Entries, and so descriptors, in one packet.
_MOST_ENTRIES: Final = 100
#: Bytes of entries in one packet, as counted by `_room`.
_MOST_BYTES: Final = packets.MAX_PACKET - 20_000
#: Entries in one packet when they need no descriptors of their own.
_MOST_BUNDLED: Final = 1000
#: Files up to so many bytes travel in bundles, where the daemon takes them.
_SMALL: Final = 64 << 10
#: Packets under way.
_WINDOW: Final = 4
#: Pause when the kernel has too many descriptors under way, in seconds.
_BREATHER: Final = 0.05


def hand_over(
    channel: Channel,
    name: str,
    sources: Sequence[Source],
    options: wire.CreateOptions,
    watcher: Watcher | None,
) -> wire.SetView:
    """Create a set from what was found. Whatever interrupts this cancels the creation: the connection is
    closed.
    """
    entries = [found for source in sources for found in source.entries]
    request = {
        "op": "create",
        "name": name,
        "options": options,
        "bytes": sum(found.size for found in entries),
        "files": sum(found.kind == "file" for found in entries),
        "progress": True,
    }
    with creating(channel, name):
        channel.post(request)
        granted, _ = channel.answer(watcher)
        bundles = Bundles(int(granted.get("bundle_bytes", 0)))
        with _Sender(channel, watcher, bundles) as sender:
            for source in sources:
                sender.send_all(source.files(min(_SMALL, bundles.size) if bundles.size else -1))
        channel.post({"op": "seal"})
        value, descriptors = channel.answer(watcher)
        packets.close_all(descriptors)
        return wire.convert(value.get("set"), wire.SetView)


class _Sender:
    """Fills packets; leaving it normally sends the last one and waits for all answers."""

    def __init__(self, channel: Channel, watcher: Watcher | None, bundles: Bundles) -> None:
        self._channel = channel
        self._watcher = watcher
        self._bundles = bundles
        self._small: list[bytes] = []
        self._small_bytes = 0
        self._entries: list[wire.NewEntry] = []
        self._descriptors: list[int] = []
        self._room = _MOST_BYTES
        #: The bundle of each packet that is not answered yet, -1 for none.
        self._unanswered: deque[int] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
                while self._unanswered:
                    self._await_one()
        finally:
            packets.close_all(self._descriptors)
            self._bundles.close()

    def send_all(self, files: Iterable[tuple[Found, int | bytes]]) -> None:
        for found, source in files:
            room = 150 + 2 * _encoded(found.path) + 2 * _encoded(found.target)
            small = isinstance(source, bytes)
            if room > self._room or self._full(found.size if small else -1):
                self._flush()
            self._room -= room
            if isinstance(source, bytes):
                self._small.append(source)
                self._small_bytes += len(source)
            elif source >= 0:
                self._descriptors.append(source)
            self._entries.append(
                wire.NewEntry(
                    path=found.path,
                    kind=found.kind,
                    size=found.size,
                    executable=found.executable,
                    mtime_ns=found.mtime_ns,
                    target=found.target,
                    bundled=small,
                )
            )

    def _full(self, small: int) -> bool:
        """Say whether one more entry does not fit: a bundled file of so many bytes, or another one (-1)."""
        if small >= 0:
            return len(self._entries) >= _MOST_BUNDLED or self._small_bytes + small > self._bundles.size
        return len(self._descriptors) >= _MOST_ENTRIES or len(self._entries) >= _MOST_BUNDLED

    def _flush(self) -> None:
        if not self._entries:
            return
        if len(self._unanswered) == _WINDOW:
            self._await_one()
        bundle = self._bundles.fill(self._small) if self._small else -1
        try:
            self._post({"op": "add", "entries": self._entries}, [bundle] if self._small else [], bundle)
        finally:
            packets.close_all(self._descriptors)
            self._descriptors = []
        self._entries, self._room = [], _MOST_BYTES
        self._small, self._small_bytes = [], 0

    def _post(self, request: dict[str, Any], first: list[int], bundle: int) -> None:
        while True:
            try:
                self._channel.post(request, first + self._descriptors)
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS:
                    raise
                if self._unanswered:
                    self._await_one()
                else:
                    time.sleep(_BREATHER)
            else:
                self._unanswered.append(bundle)
                return

    def _await_one(self) -> None:
        _, descriptors = self._channel.answer(self._watcher)
        packets.close_all(descriptors)
        self._bundles.give_back(self._unanswered.popleft())


def _encoded(text: str) -> int:
    """Return how many bytes a text has in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


class Bundles:
    """Memory in which small files are handed over together; used again once the daemon has read it."""

    def __init__(self, size: int) -> None:
        #: Bytes of one, at most; 0: the daemon, or this system, knows no bundles.
        self.size = size if hasattr(os, "memfd_create") else 0
        self._made: list[int] = []
        self._free: list[int] = []
        if self.size:
            try:
                self._free.append(self._make())
            except OSError:
                self.size = 0

    def fill(self, parts: Sequence[bytes]) -> int:
        """Return a descriptor that holds these bytes from its start; it stays ours."""
        bundle = self._free.pop() if self._free else self._make()
        written = os.pwritev(bundle, parts, 0)
        if written < sum(map(len, parts)):
            view = memoryview(b"".join(parts))
            while written < len(view):
                written += os.pwrite(bundle, view[written:], written)
        return bundle

    def give_back(self, bundle: int) -> None:
        """Note that the daemon has read a bundle; -1: there was none."""
        if bundle >= 0:
            self._free.append(bundle)

    def close(self) -> None:
        """Close all: the daemon has descriptors of its own."""
        packets.close_all(self._made)

    def _make(self) -> int:
        made = os.memfd_create("cached-bundle")
        self._made.append(made)
        return made
