"""The typed client of this node's daemon, for jobs, schedulers and the command line.

Standard library and msgspec only: it imports none of what the daemon is made of. `AsyncClient` is loaded when it is
first asked for, and asyncio with it: the command line and most jobs need neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cached.client.client import Client
from cached.client.objects import ObjectFile
from cached.client.opened import Opened, SetFile
from cached.client.spool import ObjectWriter
from cached.wire import CreateOptions, Progress

if TYPE_CHECKING:
    from cached.client.asynchronous import AsyncClient

__all__ = [
    "AsyncClient",
    "Client",
    "CreateOptions",
    "ObjectFile",
    "ObjectWriter",
    "Opened",
    "Progress",
    "SetFile",
]


def __getattr__(name: str) -> Any:
    if name == "AsyncClient":
        from cached.client.asynchronous import AsyncClient

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
