"""`cached path`: a path to a set that is valid as long as the calling shell or job lives."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import click
from cached.errors import NotFound, UsageError

from cached_cli.command import CachedCommand, set_names
from cached_cli.holder import caller, hold
from cached_cli.keeper import Keeper
from cached_cli.output import emit_json
from cached_cli.progress import Meter
from cached_cli.session import Session, pass_session

if TYPE_CHECKING:
    from cached.client import Opened


@click.command("path", cls=CachedCommand)
@click.argument("name", metavar="NAME[/PATH]", shell_complete=set_names)
@click.option(
    "--no-fetch", is_flag=True, help="End with 3 when this node has no replica, instead of fetching it."
)
@pass_session
def path(session: Session, name: str, no_fetch: bool) -> None:
    """Print a path to a set, or to a file or directory in it.

    The path is valid for you, on this node, until the calling shell (or whichever process called) ends: a
    small process in the background keeps the set open until then.
    """
    reference, _, inside = name.partition("/")
    if ".." in inside.split("/"):
        raise UsageError(f"{name} leaves the set", hint="name a path inside the set")
    if not no_fetch:
        with Meter(reference, session) as meter:
            session.client().fetch(reference, progress=meter)
    pid, descriptor = hold(lambda: _open(session, reference), caller(os.getppid()))
    found = f"/proc/{pid}/fd/{descriptor}" + (f"/{inside}" if inside else "")
    if inside and not os.path.lexists(found):
        os.kill(pid, signal.SIGTERM)
        raise NotFound(f"{reference} has no {inside}", hint=f"see cached files {reference}")
    if session.json:
        return emit_json({"path": found})
    return click.echo(found)


def _open(session: Session, reference: str) -> Opened:
    """In the holder: open the set, and keep it pinned."""
    client = session.client()
    opened = client.open_dir(reference, fetch=False)
    Keeper(client, [opened.set_id]).start()
    return opened
