"""`cached get` and `cat`: the bytes of a set or an object, copied to a place or written to stdout."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import BinaryIO, Final

import click
from cached.errors import UsageError

from cached_cli.command import CachedCommand, set_names
from cached_cli.output import emit_json, talk
from cached_cli.progress import Meter
from cached_cli.session import Session, pass_session

#: The place that stands for stdout.
_STDOUT: Final = "-"
#: Bytes moved by one call.
_CHUNK: Final = 8 << 20
#: The output cannot be a target of sendfile: a terminal, a file opened for appending.
_NO_SENDFILE: Final = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}


@click.command("get", cls=CachedCommand)
@click.argument("name", metavar="NAME[/PATH]|gs://...", shell_complete=set_names)
@click.argument("destination", metavar="DEST|-", type=click.Path())
@pass_session
def get(session: Session, name: str, destination: str) -> None:
    """Copy a set, a file or directory of it, or an object of Cloud Storage, to DEST.

    DEST is new, or an empty directory, and becomes the root of the copy; directories above it are made. The
    copy is yours; the set is not needed any more. An object, gs://BUCKET/OBJECT, becomes the new file DEST.
    With - as DEST a file or an object is written to stdout, as by cached cat; a file of that name is ./-.
    """
    if destination == _STDOUT:
        return write(session, (name,))
    try:
        with Meter(name, session) as meter:
            session.client().export(name, destination, progress=meter)
    except KeyboardInterrupt:
        talk(f"cached: interrupted; nothing is left in {destination}")
        click.get_current_context().exit(130)
    if session.json:
        return emit_json({"path": str(Path(destination).absolute())})
    return talk(f"{name} is in {destination}")


@click.command("cat", cls=CachedCommand)
@click.argument("names", metavar="NAME/PATH|gs://...", nargs=-1, required=True, shell_complete=set_names)
@pass_session
def cat(session: Session, names: tuple[str, ...]) -> None:
    """Write files of sets and objects of Cloud Storage to stdout, one after the other."""
    write(session, names)


def write(session: Session, names: tuple[str, ...]) -> None:
    """Write files and objects to stdout. Raises `UsageError` for a whole set, before anything is written."""
    from cached.addresses import is_address

    for name in names:
        if not (is_address(name) or name.partition("/")[2]):
            raise UsageError(
                f"{name} is a set, not a file in one", hint=f"write NAME/PATH; see cached files {name}"
            )
    client = session.client()
    sys.stdout.flush()
    for name in names:
        with Meter(name, session) as meter:
            source = client.open(name, progress=meter)
        with source:
            pour(source)


def pour(source: BinaryIO) -> None:
    """Write all of a file to stdout, in the kernel where it can be."""
    try:
        target = sys.stdout.fileno()
        source.fileno()
    except (OSError, ValueError):  # what is read through the node has no descriptor
        sys.stdout.buffer.writelines(iter(lambda: source.read(_CHUNK), b""))
        return
    offset = 0
    try:
        while sent := os.sendfile(target, source.fileno(), offset, _CHUNK):
            offset += sent
    except OSError as error:
        if error.errno not in _NO_SENDFILE:
            raise
        _copy(source.fileno(), target, offset)


def _copy(source: int, target: int, offset: int) -> None:
    while block := os.pread(source, _CHUNK, offset):
        offset += len(block)
        rest = memoryview(block)
        while rest:
            rest = rest[os.write(target, rest) :]
