"""The composition root: builds one node from its configuration, runs it, and stops it in order.

Nothing else constructs an adapter. `daemon.py: Daemon.start` is the list of parts, in the order in which they depend
on each other; the files beside it say how each group of parts is made: `disk` (what is on disk), `assembly` (the
node and whom it talks to), `doors` (sockets and what is behind them), `background` (what runs by itself). What
readiness does not need is loaded later (`loading`; tests/daemons/test_loading.py has the list).
"""

from __future__ import annotations

from cached.daemon.loading import unhindered

with unhindered():
    from cached.daemon.daemon import Daemon
    from cached.daemon.process import main, run

__all__ = ["Daemon", "main", "run"]
