"""A job's whole input and output localisation in one call: objects, directories of them and sets in, files out.

What is to be moved is known before anything moves (`plan`); then several move at a time. A file appears whole under
its name or not at all, and one that is there is replaced. What fails does not stop the rest; an interrupt stops all.
"""

from __future__ import annotations

import concurrent.futures
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cached import wire
from cached.client.arrival import bring_object, bring_set
from cached.client.channel import Watcher
from cached.client.tally import Tally
from cached.client.transfers import (
    Copy,
    Found,
    Pattern,
    Transfer,
    check_distinct,
    inputs,
    outputs,
    source_objects,
)
from cached.errors import CachedError, Forbidden, NotFound, UnsupportedFile, UsageError

if TYPE_CHECKING:
    from cached.client.client import Client

#: Files moved at a time.
AT_ONCE: Final = 8
#: Seconds between two reports.
_REPORT_EVERY: Final = 0.2


@dataclass(frozen=True)
class Failed:
    """What could not be moved, and why."""

    source: str
    to: str
    error: CachedError


@dataclass(frozen=True)
class Moved:
    """What arrived: how many files, how many bytes, and from where (empty for an output)."""

    copy: Copy
    files: int
    bytes: int
    place: str


@dataclass
class Outcome:
    """What became of all transfers."""

    moved: list[Moved] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    @property
    def worst(self) -> CachedError | None:
        """The error with the highest exit code; None when nothing failed."""
        return max((each.error for each in self.failed), key=lambda error: error.exit_code, default=None)


def localize(
    client: Client,
    transfers: Sequence[Transfer],
    *,
    scope: str | None = None,
    at_once: int = AT_ONCE,
    watcher: Watcher | None = None,
) -> Outcome:
    """Do all transfers, several files at a time, and say what became of each; raises `UsageError` before any moves."""
    copies, failed = plan(client, transfers)
    return move(client, copies, failed, scope=scope, at_once=at_once, watcher=watcher)


def plan(client: Client, transfers: Iterable[Transfer]) -> tuple[list[Copy], list[Failed]]:
    """Return what is to be moved, and what cannot be; looks at Cloud Storage and at files, and moves nothing.

    Raises `UsageError` when two would arrive under one name.
    """
    copies: list[Copy] = []
    failed: list[Failed] = []
    for transfer in transfers:
        try:
            found = list(_PLANS[transfer.kind](client, transfer))
        except OSError as error:
            found = [_in_words(transfer.source, error)]
        except CachedError as error:
            found = [error]
        copies += [each for each in found if isinstance(each, Copy)]
        failed += [
            Failed(transfer.source, transfer.to, each) for each in found if isinstance(each, CachedError)
        ]
    check_distinct(copies)
    return copies, failed


def move(
    client: Client,
    copies: Sequence[Copy],
    failed: Sequence[Failed] = (),
    *,
    scope: str | None = None,
    at_once: int = AT_ONCE,
    watcher: Watcher | None = None,
) -> Outcome:
    """Do what was planned. An interrupt ends it, and leaves nothing half-written."""
    work = _Work(client, scope)
    outcome = Outcome(failed=list(failed))
    pool = concurrent.futures.ThreadPoolExecutor(max_workers=max(1, at_once), thread_name_prefix="localize")
    try:
        jobs = {pool.submit(work.move, number, copy): copy for number, copy in enumerate(copies)}
        waiting = set(jobs)
        while waiting:
            _, waiting = concurrent.futures.wait(
                waiting, timeout=_REPORT_EVERY, return_when=concurrent.futures.FIRST_EXCEPTION
            )
            if watcher is not None:
                watcher(work.progress(copies))
        for job, copy in jobs.items():
            _settle(outcome, copy, job.result())
    except BaseException:
        work.stopped.set()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return outcome


def _settle(outcome: Outcome, copy: Copy, result: Moved | CachedError) -> None:
    if isinstance(result, CachedError):
        outcome.failed.append(Failed(copy.source, copy.to, result))
        return
    outcome.moved.append(result)
    if copy.kind == "out":
        outcome.tally.sent(result.bytes)
    else:
        what = "set" if copy.kind == "set" else "object"
        outcome.tally.brought(result.files, result.bytes, result.place, what=what)


class _Work:
    """What the threads share."""

    def __init__(self, client: Client, scope: str | None) -> None:
        self.stopped = threading.Event()
        self._client = client
        self._scope = scope
        self._present: dict[int, int] = {}
        self._wanted: dict[int, int] = {}
        self._done = 0
        self._lock = threading.Lock()

    def move(self, number: int, copy: Copy) -> Moved | CachedError:
        """Move one; an error is returned, for it concerns no other."""
        note = self._noting(number)
        try:
            note(0, copy.size)
            moved = self._moved(copy, note)
        except OSError as error:
            return _in_words(copy.source if copy.kind == "out" else copy.to, error)
        except CachedError as error:
            return error
        note(moved.bytes, moved.bytes)
        with self._lock:
            self._done += moved.files
        return moved

    def _moved(self, copy: Copy, note: Callable[[int, int], None]) -> Moved:
        def watch(report: wire.Progress) -> None:
            note(report.bytes_present, report.bytes_wanted)

        if copy.kind == "in":
            size, place = bring_object(
                self._client,
                copy.source,
                copy.to,
                within=copy.within,
                keep=copy.cache,
                scope=self._scope,
                watcher=watch,
            )
            return Moved(copy, 1, size, place)
        if copy.kind == "set":
            return Moved(copy, *bring_set(self._client, copy.source, copy.to, watcher=watch))
        view = self._client.put(copy.source, copy.to, scope=self._scope, progress=watch)
        return Moved(copy, 1, view.size, "")

    def _noting(self, number: int) -> Callable[[int, int], None]:
        def note(present: int, wanted: int) -> None:
            if self.stopped.is_set():
                raise StoppedError
            with self._lock:
                self._present[number] = max(present, self._present.get(number, 0))
                self._wanted[number] = max(wanted, self._wanted.get(number, 0))

        return note

    def progress(self, copies: Sequence[Copy]) -> wire.Progress:
        """Return how far all of it is."""
        with self._lock:
            wanted = sum(self._wanted.get(number, copy.size) for number, copy in enumerate(copies))
            return wire.Progress(
                bytes_present=sum(self._present.values()),
                bytes_wanted=wanted,
                files_done=self._done,
                state="COPYING",
            )


class StoppedError(Exception):
    """Everything was given up; raised in the threads, out of what they are at."""


# What a transfer comes to


def _plan_in(client: Client, transfer: Transfer) -> Iterator[Copy | CachedError]:
    bucket, pattern = source_objects(transfer)
    found: list[Found] = []
    if pattern.many:
        # What lies deeper than a wildcard reaches need not be listed.
        listed = client.list_objects(f"gs://{bucket}/{pattern.prefix}", "/" if pattern.depth == 1 else "")
        found = [Found(view.name, view.size, view.generation) for view in listed.items]
    any_of_them = False
    for each in inputs(transfer, found, to_is_directory=os.path.isdir(transfer.to)):
        any_of_them = True
        yield each
    if not any_of_them:
        yield NotFound(
            f"{transfer.source}: there is no such object", hint="gcloud storage ls shows what there is"
        )


def _plan_out(_client: Client, transfer: Transfer) -> Iterator[Copy | CachedError]:
    source = transfer.source
    if os.path.isdir(source):
        pattern = Pattern(source.rstrip("/") + "/", literal=True)
    else:
        pattern = Pattern(source, literal=os.path.lexists(source))
    if not pattern.many:
        yield from outputs(transfer, pattern, [Found(source, _size_of(source))])
        return
    any_of_them = pattern.text.endswith("/")
    for found in files_below(pattern.base, pattern):
        any_of_them = True
        if isinstance(found, CachedError):
            yield found
        else:
            yield from outputs(transfer, pattern, [found])
    if not any_of_them:
        yield NotFound(f"{source}: no file fits")


def _plan_set(_client: Client, transfer: Transfer) -> Iterator[Copy | CachedError]:
    yield Copy(kind="set", source=transfer.source, to=transfer.to, cache=transfer.cache)


_PLANS: Final[dict[str, Callable[[Any, Transfer], Iterator[Copy | CachedError]]]] = {
    "in": _plan_in,
    "out": _plan_out,
    "set": _plan_set,
}


def files_below(folder: str, pattern: Pattern, depth: int = 1) -> Iterator[Found | CachedError]:
    """Yield the files below a directory that fit, in order; links to files count as files.

    Links to directories are not followed: one that fits is an error, and so is what is no file.
    """
    with os.scandir(folder or ".") as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        path = f"{folder}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            if pattern.depth is None or depth < pattern.depth:
                yield from files_below(f"{path}/", pattern, depth + 1)
        elif pattern.relative(path) is not None:
            try:
                yield Found(path, _size_of(path))
            except CachedError as error:
                yield error


def _size_of(path: str) -> int:
    try:
        if not os.path.isfile(path):
            os.stat(path)
            kind = "a link to a directory" if os.path.isdir(path) else "no regular file"
            raise UnsupportedFile(f"{path} is {kind}", hint="name what it leads to")
        return os.stat(path).st_size
    except OSError as error:
        raise _in_words(path, error) from error


def _in_words(path: str, error: OSError) -> CachedError:
    kind = {FileNotFoundError: NotFound, PermissionError: Forbidden, IsADirectoryError: UsageError}.get(
        type(error), CachedError
    )
    return kind(f"{error.filename or path}: {error.strerror or error}")
