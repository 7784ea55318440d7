"""Which threads go first: those that are waited for in milliseconds, before those that copy and hash for seconds."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Final

#: Of threads that copy what a user waits for: a tenth of a processor's time where others want all of it.
BULK: Final = 10
#: Of threads whose work nobody waits for.
IDLE: Final = 19


def step_back(nice: int) -> None:
    """Lower the priority of this thread, and of those that it starts, to that nice value; never raise it."""
    with contextlib.suppress(OSError):
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(nice, os.getpriority(os.PRIO_PROCESS, thread)))
