"""`cached put`, `clear` and `scope`: objects of Cloud Storage through the node, and what a batch leaves behind."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from cached.errors import Forbidden, NotFound, UsageError

from cached_cli.command import CachedCommand, CachedGroup
from cached_cli.output import emit_json, plain, size, table, talk, warn
from cached_cli.progress import Meter
from cached_cli.session import Session, pass_session

#: The file that stands for stdin.
_STDIN = Path("-")


@contextlib.contextmanager
def _there(file: Path) -> Iterator[None]:
    """Say of a file that cannot be opened what `create` says. Raises `NotFound`, `Forbidden`."""
    try:
        yield
    except FileNotFoundError as error:
        if error.filename != str(file):
            raise
        raise NotFound(f"there is no {file}", path=str(file)) from None
    except PermissionError as error:
        if error.filename != str(file):
            raise
        raise Forbidden(
            f"cannot read {file}: {error.strerror}", hint="the file is read as you", path=str(file)
        ) from None


@click.command("put", cls=CachedCommand)
@click.argument("file", metavar="FILE|-", type=click.Path(path_type=Path))
@click.argument("address", metavar="gs://BUCKET/OBJECT")
@click.option(
    "--if-generation",
    type=click.IntRange(min=0),
    metavar="N",
    help="Only if the object is of generation N now; 0: only if there is none.",
)
@click.option("--content-type", default="", metavar="T", help="Media type, as text/csv.")
@click.option("--scope", metavar="S", help="Batch that the object belongs to (default: $CACHED_SCOPE).")
@pass_session
def put(
    session: Session,
    file: Path,
    address: str,
    if_generation: int | None,
    content_type: str,
    scope: str | None,
) -> None:
    """Store FILE, or with - what comes on stdin, as an object, and keep a copy on this node.

    Ends when Cloud Storage has it and no node reads the old one any more. Prints the address with its generation.
    """
    if file != _STDIN and file.is_dir():
        raise UsageError(
            f"{file} is a directory", hint="an object is one file; cached localize takes directories"
        )
    if address.endswith("/"):
        raise UsageError(
            f"{address} is a directory",
            hint=f"name the object in it: {address}{'OBJECT' if file == _STDIN else file.name}",
        )
    with Meter(address, session) as meter, _there(file):
        made = session.client().put(
            sys.stdin.buffer if file == _STDIN else file,
            address,
            if_generation=if_generation,
            content_type=content_type,
            scope=scope,
            progress=meter,
        )
    if session.json:
        return emit_json(made)
    return click.echo(made.address)


@click.command("clear", cls=CachedCommand)
@click.argument("prefix", metavar="[gs://PREFIX]", required=False)
@click.option("--user", metavar="U", help="Another user's part; for administrators of this node.")
@pass_session
def clear(session: Session, prefix: str | None, user: str | None) -> int:
    """Empty your part of the object cache, on all nodes. Cloud Storage keeps what it has, and so do sets.

    Ends with 1 when a node could not be told, because it is away.
    """
    done = plain(session.client().clear(prefix, user))
    if session.json:
        emit_json(done)
    else:
        rows = (
            (item["node"], item["entries"], size(item["bytes"]), item["reason"]) for item in done["items"]
        )
        table(session, ["NODE", ">COPIES", ">SIZE", "WHY"], rows)
    return _left(session, done["items"])


@click.group("scope", cls=CachedGroup)
def scope() -> None:
    """What belongs to a batch: everything that was made with --scope S, or CACHED_SCOPE=S."""


@scope.command("end")
@click.argument("name", metavar="S")
@click.option("--delete-origin", is_flag=True, help="Delete what the batch wrote in Cloud Storage, too.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@pass_session
def end(session: Session, name: str, delete_origin: bool, dry_run: bool) -> int:
    """Remove a batch's sets and copies of objects from every node.

    Ends with 1 when something is left, because a node is away or Cloud Storage denies it: then end it once more.
    """
    with Meter(name, session) as meter:
        reply = session.client().end_scope(name, delete_origin=delete_origin, dry_run=dry_run, progress=meter)
    done = plain(reply)
    if session.json:
        emit_json(done)
    else:
        _show_end(session, name, done["items"])
    left = _left(session, [item for item in done["items"] if item["action"] != "keep"])
    if not dry_run:
        return left
    if not session.json:
        talk("nothing was changed: this was a dry run")
    return 0


def _show_end(session: Session, scope: str, items: list[dict[str, Any]]) -> None:
    """Print what the end of a scope removes; nodes that have nothing of it are left out."""
    told = [item for item in items if item["reason"] or item["kind"] != "object" or item["name"] != "0"]
    if not told:
        return talk(f"nothing is known of the scope {scope}")
    rows = (
        (
            "copies" if item["kind"] == "object" else item["kind"],
            item["name"],
            item["node"] or "-",
            size(item["bytes"]),
            item["action"],
            item["reason"],
        )
        for item in told
    )
    return table(session, ["KIND", "NAME OR NUMBER", "NODE", ">SIZE", "ACTION", "WHY"], rows)


def _left(session: Session, items: list[dict[str, Any]]) -> int:
    """Say how much is left to be done, and return the exit code for that."""
    left = sum(bool(item["reason"]) for item in items)
    if left and not session.json:
        warn(f"not all is done: {left} of the lines above say why")
    return 1 if left else 0
