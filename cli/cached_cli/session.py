"""What one invocation of `cached` knows: the global options, and how to reach the daemon.

Nothing here imports the client before a command asks for it, so that `cached --help` stays quick.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cached.client import Client


@dataclass
class Session:
    """The global options of one invocation; they may stand before or after the subcommand."""

    #: Data and errors as JSON.
    json: bool = False
    #: Where the daemon's sockets are; None: the places where clients look by themselves.
    runtime_dir: Path | None = None
    #: Which of several daemons on this host; empty: the one without a name.
    instance: str = ""
    #: False: no colour, even on a terminal.
    color: bool = True
    #: Exit code of this program's own failures, where a command's code passes through; None: the error's.
    own_failure: int | None = None

    def client(self, timeout: float = 30) -> Client:
        """Return a client of the chosen daemon; it connects at its first request. `timeout` in seconds."""
        from cached.client import Client

        return Client(runtime_dir=self.sockets(), timeout=timeout)

    def sockets(self) -> Path | None:
        """Return the directory of the daemon's sockets; None leaves the choice to the client."""
        if self.runtime_dir is not None or not self.instance:
            return self.runtime_dir
        places = list(instance_dirs(self.instance, os.environ, os.getuid()))
        return next((place for place in places if (place / "api.sock").exists()), places[0])


def instance_dirs(instance: str, env: Mapping[str, str], uid: int) -> Iterator[Path]:
    """Yield where a named instance's sockets may be: the usual places with `-INSTANCE` at the end.

    A `{instance}` in `CACHED_RUNTIME_DIR` is replaced instead, as it is in the configuration.
    """
    if configured := env.get("CACHED_RUNTIME_DIR"):
        named = configured.replace("{instance}", instance)
        yield Path(named if named != configured else f"{configured}-{instance}")
    yield Path(f"/run/cached-{instance}")
    if runtime := env.get("XDG_RUNTIME_DIR"):
        yield Path(runtime, f"cached-{instance}")
    yield Path(f"/tmp/cached-{uid}-{instance}")  # noqa: S108  the place that the daemon falls back to


pass_session = click.make_pass_decorator(Session, ensure=True)
