"""The daemon's process: signals, log, readiness, exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from cached import administration, notify
from cached.api import door
from cached.api.wakeful import WakefulSelector
from cached.config import Config
from cached.daemon.daemon import Daemon
from cached.precedence import answer_at_once

log = logging.getLogger("cached")

#: Seconds after which a thread that computes lets others in: the event loop must answer while sets are read in threads.
SWITCH = 0.001


async def run(config: Config, expect: Callable[[], None]) -> None:
    """Run a node until SIGTERM or SIGINT; `expect` is called after each quick request."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    daemon = Daemon(config, expect)
    try:
        await daemon.start()
        node = daemon.node
        assert node is not None
        log.info(
            "ready name=%s id=%s address=%s bittorrent=%d runtime_dir=%s",
            node.directory.name,
            node.id[:12],
            node.directory.address,
            node.bittorrent_port,
            config.node.runtime_dir,
        )
        notify.ready(f"{len(node.shelf.replicas)} sets, {node.directory.address}")
        daemon.ready()
        await stop.wait()
        log.info("stopping")
        notify.stopping()
    finally:
        await daemon.stop()
    log.info("stopped")


def _forbid_dumps() -> None:
    """Let the kernel write no core of this process: it would hold users' tokens.

    A limit of 0 keeps it from writing files; what it pipes to a program (core(5)) it keeps back at a limit of 1 alone,
    which is too short for a file as well.
    """
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    limit = min(1, most) if most >= 0 else 1
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


def main(path: Path | None, instance: str, flags: Mapping[str, str]) -> int:
    """Run this node in the foreground; return the exit code. Raises `CachedError` when it cannot start."""
    config = administration.load(path, instance, flags)
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    os.umask(0o022)
    _forbid_dumps()
    door.raise_limit()
    sys.setswitchinterval(SWITCH)
    answer_at_once()
    selector = WakefulSelector()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(run(config, selector.expect))
    return 0
