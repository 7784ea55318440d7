"""Where the measurements run: real daemons, a fake of Cloud Storage and a Redis, all gone at the end."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.daemons.cluster import Cluster, running
from tests.daemons.node import Node
from tests.gcs.remote import RemoteFake, fake_process


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Give a cluster without nodes; what its daemons have logged is shown when something fails."""
    quiet = contextlib.ExitStack()
    said = io.StringIO()
    try:
        with quiet, running() as made:
            quiet.enter_context(_tidy_end(made, said))
            yield made
    except BaseException:
        sys.stderr.write(said.getvalue())
        raise


@contextlib.contextmanager
def _tidy_end(made: Cluster, said: io.StringIO) -> Iterator[None]:
    close = made.close

    def closed() -> None:
        with contextlib.redirect_stdout(said):
            close()

    made.close = closed  # type: ignore[method-assign]
    yield


def nodes(made: Cluster, storage: RemoteFake, count: int = 1, **settings: str) -> list[Node]:
    """Start so many nodes on that storage, and wait until they see each other."""
    settings = {"origin_endpoint": storage.url, **settings}
    started = [made.start(f"n{number}", **settings) for number in range(count)]
    if count > 1:
        made.together()
    return started


@contextlib.contextmanager
def storage(*buckets: str) -> Iterator[RemoteFake]:
    """Give a fake in a process of its own, with buckets that are open to all."""
    with fake_process() as fake:
        for bucket in buckets:
            fake.bucket(bucket)
        with _environment(STORAGE_EMULATOR_HOST=fake.url):
            yield fake


@contextlib.contextmanager
def redis_server() -> Iterator[Any]:
    """Give a redis-server without persistence, with its Unix socket in memory."""
    from tests.objects.redis_kit import Server

    root = Path(tempfile.mkdtemp(prefix="cached-redis-"))
    server = None
    try:
        server = Server(root / "redis")
        yield server
    finally:
        if server is not None:
            server.kill()
        shutil.rmtree(root, ignore_errors=True)


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ |= values
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before
