"""Sets that the daemon makes of what Cloud Storage has: nothing is handed over, so this only asks and waits."""

from __future__ import annotations

from cached import packets, wire
from cached.client.channel import Channel, Watcher, creating


def draw(channel: Channel, name: str, options: wire.CreateOptions, watcher: Watcher | None) -> wire.SetView:
    """Have a set made of `options.source` or `options.source_set`. Whatever interrupts this cancels it."""
    with creating(channel, name):
        for request in (
            {"op": "create", "name": name, "options": options, "progress": True},
            {"op": "draw"},
            {"op": "seal"},
        ):
            channel.post(request)
            value, descriptors = channel.answer(watcher)
            packets.close_all(descriptors)
        return wire.convert(value.get("set"), wire.SetView)
