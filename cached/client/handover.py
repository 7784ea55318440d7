"""Handing files over to the daemon: packets of entries with their descriptors, a few of them unanswered at a
time.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final, Self

import msgspec

from cached import packets, wire
from cached.client.channel import Channel, LostError, Watcher
from cached.client.walk import Found, Source
from cached.errors import DaemonUnreachable

#: Entries, and so descriptors, in one packet.
_MOST_ENTRIES: Final = 100
#: Bytes of entries in one packet, as counted by `_room`.
_MOST_BYTES: Final = packets.MAX_PACKET - 20_000
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
    try:
        channel.post(request)
        channel.answer(watcher)
        with _Sender(channel, watcher) as sender:
            for source in sources:
                sender.send_all(source.files())
        channel.post({"op": "seal"})
        value, descriptors = channel.answer(watcher)
        packets.close_all(descriptors)
        return wire.convert(value.get("set"), wire.SetView)
    except LostError as error:
        raise DaemonUnreachable(
            f"the daemon went away before it had confirmed {name}",
            hint="once it runs, create the set again: if it was stored after all, nothing is stored twice",
        ) from error
    finally:
        channel.close(abort=True)


class _Sender:
    """Fills packets; leaving it normally sends the last one and waits for all answers."""

    def __init__(self, channel: Channel, watcher: Watcher | None) -> None:
        self._channel = channel
        self._watcher = watcher
        self._entries: list[wire.NewEntry] = []
        self._descriptors: list[int] = []
        self._room = _MOST_BYTES
        self._unanswered = 0

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

    def send_all(self, files: Iterable[tuple[Found, int]]) -> None:
        for found, descriptor in files:
            room = 200 + 2 * len(found.path.encode()) + 2 * len(found.target.encode())
            if len(self._entries) == _MOST_ENTRIES or room > self._room:
                self._flush()
            self._room -= room
            if descriptor >= 0:
                self._descriptors.append(descriptor)
            self._entries.append(
                wire.NewEntry(
                    path=found.path,
                    kind=found.kind,
                    size=found.size,
                    executable=found.executable,
                    mtime_ns=found.mtime_ns,
                    target=found.target,
                )
            )

    def _flush(self) -> None:
        if not self._entries:
            return
        if self._unanswered == _WINDOW:
            self._await_one()
        self._post({"op": "add", "entries": msgspec.to_builtins(self._entries)})
        packets.close_all(self._descriptors)
        self._entries, self._descriptors, self._room = [], [], _MOST_BYTES

    def _post(self, request: dict[str, Any]) -> None:
        while True:
            try:
                self._channel.post(request, self._descriptors)
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS:
                    raise
                if self._unanswered:
                    self._await_one()
                else:
                    time.sleep(_BREATHER)
            else:
                self._unanswered += 1
                return

    def _await_one(self) -> None:
        _, descriptors = self._channel.answer(self._watcher)
        packets.close_all(descriptors)
        self._unanswered -= 1
