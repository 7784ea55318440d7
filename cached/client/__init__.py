"""The typed client of this node's daemon, for jobs, schedulers and the command line.

Standard library and msgspec only: it imports none of what the daemon is made of.
"""

from __future__ import annotations

from cached.client.asynchronous import AsyncClient
from cached.client.client import Client
from cached.client.opened import Opened, SetFile
from cached.wire import CreateOptions, Progress

__all__ = ["AsyncClient", "Client", "CreateOptions", "Opened", "Progress", "SetFile"]
