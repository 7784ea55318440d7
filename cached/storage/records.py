"""Signed set records beside the bytes: they let a node find its sets again when its database is lost."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from pathlib import Path

import msgspec

from cached import faults
from cached.sets.set import SignedRecord
from cached.storage import files

RECORD_WRITTEN = faults.declare("store.record")

_log = logging.getLogger(__name__)
_SUFFIX = ".record"
#: Two threads may put records of one set; temporary names are fixed, so that a crash leaves no more than one.
_writing = threading.Lock()


def put(directory: Path, signed: SignedRecord, *, durable: bool = True) -> None:
    """Write a record, in place of an earlier one of the same set; `durable`, unless somebody else will sync it."""
    path = directory / f"{signed.record().id}{_SUFFIX}"
    with files.translated(directory), _writing:
        files.write_atomic(path, msgspec.msgpack.encode(signed), durable=durable)
    faults.point(RECORD_WRITTEN)


def read_all(directory: Path) -> list[SignedRecord]:
    """Return all records that can be read, by set id; one that cannot is named in the log."""
    found = []
    with files.translated(directory):
        for path in sorted(directory.glob(f"*{_SUFFIX}")):
            try:
                signed = msgspec.msgpack.decode(path.read_bytes(), type=SignedRecord)
                signed.record()
            except msgspec.DecodeError as error:
                _log.warning("unreadable set record path=%s reason=%s", path, error)
            else:
                found.append(signed)
    return found


def names(directory: Path) -> tuple[str, ...]:
    """Return the ids of the sets that have a record here, without reading the records."""
    try:
        return tuple(sorted(path.name.removesuffix(_SUFFIX) for path in directory.glob(f"*{_SUFFIX}")))
    except FileNotFoundError:
        return ()


def drop(directory: Path, set_id: str) -> None:
    """Remove one set's record durably; nothing happens when there is none."""
    with files.translated(directory), suppress(FileNotFoundError):
        (directory / f"{set_id}{_SUFFIX}").unlink()
        files.sync(directory)
