"""A set copied out of its directory descriptor: for `get`, and for programs that must have real paths.

Each file appears whole or not at all: written under another name, then renamed. A marker with the content's
id lies in an unfinished copy, so that after a kill the same `get` goes on where it stopped; an interrupt or
an error removes what was made.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Final

from cached import wire
from cached.client.channel import Watcher
from cached.errors import CachedError, UnsupportedFile, UsageError
from cached.sets.paths import check_links

_FICLONE: Final = 0x40049409
_CHUNK: Final = 64 << 20
_BUFFER: Final = 1 << 20
_MARKER: Final = ".cached-unfinished"
_PARTIAL: Final = ".cached-partial"
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_NOT_HERE: Final = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY, errno.EPERM, errno.ETXTBSY}
)
_REPORT_EVERY: Final = 0.1


class Listing:
    """What the manifest says of everything at and below one path of a set."""

    def __init__(self, views: Iterable[wire.FileView], below: str) -> None:
        #: Nanoseconds since 1970 by path, relative to where the listing begins; that place itself is "".
        self.mtimes: dict[str, int] = {}
        #: Targets of the links by path, likewise.
        self.links: dict[str, str] = {}
        #: Sum of all sizes.
        self.bytes = 0
        for view in views:
            if below and view.path != below and not view.path.startswith(f"{below}/"):
                continue
            path = view.path[len(below) :].lstrip("/")
            self.bytes += view.size
            mtime = mtime_of(view)
            if mtime is not None:
                self.mtimes[path] = mtime
            if view.target is not None:
                self.links[path] = view.target


def mtime_of(view: wire.FileView) -> int | None:
    """Return the source's mtime in nanoseconds; a daemon that says it only for people says it in whole seconds."""
    if view.mtime_ns is not None:
        return view.mtime_ns
    return None if view.mtime is None else int(datetime.fromisoformat(view.mtime).timestamp()) * 10**9


def export_tree(
    top: int,
    dest: Path,
    listing: Listing,
    *,
    content: str,
    view: bool = False,
    watcher: Watcher | None = None,
) -> None:
    """Copy everything below the directory descriptor `top` to DEST, which is new or empty.

    Files get 0644 or 0755 (in a `view` 0444 or 0555) less the umask, and the mtimes of the listing. `content`
    names what is copied, for the marker. Raises `UsageError` for a DEST in use, `UnsupportedFile` for a link that
    leads out of what is copied, as those of a part of a set may, and `CachedError` for a DEST that cannot be written.
    """
    _check_inside(listing.links)
    copy = _Copy(dest, content, listing, view=view, watcher=watcher)
    try:
        with _parents(dest):
            copy.begin()
            try:
                copy.folder(top, copy.top, "")
                copy.finish()
            except BaseException:
                copy.undo()
                raise
            finally:
                os.close(copy.top)
    except OSError as error:
        raise CachedError(
            f"cannot copy to {dest}: {error.strerror}", hint="nothing half-written was left there"
        ) from error


def _check_inside(links: Mapping[str, str]) -> None:
    try:
        check_links(links)
    except UnsupportedFile as error:
        raise UnsupportedFile(
            f"{error.message} (seen from what is to be copied)",
            hint="copy the whole set, or its files one by one",
        ) from None


def export_file(
    source: int, dest: Path, listing: Listing, *, executable: bool, watcher: Watcher | None = None
) -> None:
    """Copy one file to the new file DEST; it appears whole or not at all."""
    size = os.fstat(source).st_size
    with _new_file(dest, 0o755 if executable else 0o644) as goal:
        for done in copy_bytes(source, goal, size):
            _tell(watcher, done, size, 0)
        if "" in listing.mtimes:
            os.utime(goal, ns=(listing.mtimes[""],) * 2)
    _tell(watcher, size, size, 1)


def export_object(
    source: IO[bytes], dest: Path, *, through: bool, size: int, watcher: Watcher | None = None
) -> None:
    """Copy an object to the new file DEST, whole or not at all; `through`: it has no descriptor and is read."""
    with _new_file(dest, 0o644) as goal:
        copied = read_over(source, goal, size) if through else copy_bytes(source.fileno(), goal, size)
        for done in copied:
            _tell(watcher, done, size, 0)
    _tell(watcher, size, size, 1)


def read_over(source: IO[bytes], goal: int, size: int) -> Iterator[int]:
    """Copy an object that has no descriptor; yields the bytes done now and then."""
    done = 0
    while data := source.read(_BUFFER):
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(goal, rest) :]
        done += len(data)
        yield done
    if done != size:
        raise OSError(errno.EIO, f"the object ended after {done} of {size} bytes")


@contextlib.contextmanager
def _new_file(dest: Path, mode: int) -> Iterator[int]:
    """Give a descriptor of what becomes the new file DEST when all went well, and else leaves nothing."""
    if dest.exists() or dest.is_symlink():
        raise UsageError(f"{dest} exists", hint="name a new file")
    partial = dest.with_name(f"{_PARTIAL}.{os.getpid()}.{dest.name}"[:255])
    try:
        with _parents(dest):
            goal = os.open(partial, _NEW, mode)
            try:
                yield goal
                os.rename(partial, dest)
            except BaseException:
                os.unlink(partial)
                raise
            finally:
                os.close(goal)
    except OSError as error:
        raise CachedError(f"cannot write {dest}: {error.strerror}") from error


@contextlib.contextmanager
def _parents(dest: Path) -> Iterator[None]:
    """Make the directories above DEST; on an error those that were made go again."""
    missing = [parent for parent in dest.parents if not parent.exists()]
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for parent in missing:
                parent.rmdir()
        raise


def copy_bytes(source: int, goal: int, size: int) -> Iterator[int]:
    """Copy a file in the cheapest way that the file systems know; yields the bytes done now and then."""
    try:
        fcntl.ioctl(goal, _FICLONE, source)
        yield size
        return
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
    done = 0
    by_kernel = True
    while done < size:
        if by_kernel:
            try:
                count = os.copy_file_range(source, goal, min(_CHUNK, size - done), done, done)
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                by_kernel = False
                continue
        else:
            count = os.pwrite(goal, os.pread(source, _BUFFER, done), done)
        if count == 0:
            raise OSError(errno.EIO, "the stored file ended early")
        done += count
        yield done


class _Copy:
    """One copy under way, and what it has made so far."""

    def __init__(
        self,
        dest: Path,
        content: str,
        listing: Listing,
        *,
        view: bool,
        watcher: Watcher | None,
    ) -> None:
        self.top = -1
        self._dest = dest
        self._content = content.encode()
        self._mtimes = listing.mtimes
        self._modes = (0o444, 0o555) if view else (0o644, 0o755)
        self._total = listing.bytes
        self._watcher = watcher
        self._made_dest = False
        self._made: list[tuple[str, bool]] = []
        self._bytes = 0
        self._files = 0
        self._told = 0.0

    def begin(self) -> None:
        """Make or take over DEST."""
        try:
            self._dest.mkdir(mode=0o755)
            self._made_dest = True
        except FileExistsError:
            pass
        try:
            self.top = os.open(self._dest, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except NotADirectoryError as error:
            raise UsageError(f"{self._dest} exists and is no directory", hint="name a new one") from error
        if os.listdir(self.top) and not self._is_unfinished():
            os.close(self.top)
            raise UsageError(
                f"{self._dest} is not empty",
                hint="the set becomes DEST itself: name a new or an empty directory",
            )
        marker = os.open(
            _MARKER,
            os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW,
            0o600,
            dir_fd=self.top,
        )
        os.write(marker, self._content)
        os.close(marker)

    def _is_unfinished(self) -> bool:
        try:
            marker = os.open(_MARKER, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self.top)
        except OSError:
            return False
        try:
            return os.read(marker, 128) == self._content
        finally:
            os.close(marker)

    def finish(self) -> None:
        """Everything is there."""
        os.unlink(_MARKER, dir_fd=self.top)
        self._report(last=True)

    def undo(self) -> None:
        """Remove what was made; what cannot be removed stays, marked as unfinished."""
        with contextlib.suppress(OSError):
            for path, is_folder in reversed(self._made):
                target = f"/proc/self/fd/{self.top}/{path}"
                (os.rmdir if is_folder else os.unlink)(target)
            os.unlink(_MARKER, dir_fd=self.top)
            if self._made_dest:
                self._dest.rmdir()

    def folder(self, source: int, goal: int, below: str) -> None:
        """Copy one directory's entries, and theirs."""
        with os.scandir(source) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
        for entry in entries:
            path = f"{below}/{entry.name}" if below else entry.name
            facts = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(facts.st_mode):
                self._subfolder(source, goal, entry.name, path)
            elif stat.S_ISLNK(facts.st_mode):
                self._link(source, goal, entry.name, path)
            else:
                self._file(source, goal, entry.name, path, facts)
            self._stamp(goal, entry.name, path)

    def _subfolder(self, source: int, goal: int, name: str, path: str) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=goal)
            self._made.append((path, True))
        inner = os.open(name, _FOLDER, dir_fd=source)
        try:
            outer = os.open(name, _FOLDER, dir_fd=goal)
            try:
                self.folder(inner, outer, path)
            finally:
                os.close(outer)
        finally:
            os.close(inner)

    def _link(self, source: int, goal: int, name: str, path: str) -> None:
        target = os.readlink(name, dir_fd=source)
        _check_inside({path: target})
        with contextlib.suppress(FileExistsError):
            os.symlink(target, name, dir_fd=goal)
            self._made.append((path, False))

    def _file(self, source: int, goal: int, name: str, path: str, facts: os.stat_result) -> None:
        if not _is_there(goal, name, facts.st_size):
            self._copy_file(source, goal, name, path, facts)
        self._bytes += facts.st_size
        self._files += 1
        self._report()

    def _copy_file(self, source: int, goal: int, name: str, path: str, facts: os.stat_result) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_PARTIAL, dir_fd=goal)
        reader = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=source)
        try:
            mode = self._modes[bool(facts.st_mode & 0o111)]
            writer = os.open(_PARTIAL, _NEW, mode, dir_fd=goal)
            try:
                before = self._bytes
                for done in copy_bytes(reader, writer, facts.st_size):
                    self._bytes = before + done
                    self._report()
                self._bytes = before
                os.rename(_PARTIAL, name, src_dir_fd=goal, dst_dir_fd=goal)
                self._made.append((path, False))
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(_PARTIAL, dir_fd=goal)
                raise
            finally:
                os.close(writer)
        finally:
            os.close(reader)

    def _stamp(self, goal: int, name: str, path: str) -> None:
        mtime = self._mtimes.get(path)
        if mtime is not None:
            os.utime(name, ns=(mtime, mtime), dir_fd=goal, follow_symlinks=False)

    def _report(self, *, last: bool = False) -> None:
        now = time.monotonic()
        if last or now - self._told >= _REPORT_EVERY:
            self._told = now
            _tell(self._watcher, self._bytes, self._total, self._files)


def _is_there(goal: int, name: str, size: int) -> bool:
    """Tell whether an interrupted copy has this file already: under its name a file is always whole."""
    try:
        facts = os.stat(name, dir_fd=goal, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(facts.st_mode) and facts.st_size == size


def _tell(watcher: Watcher | None, done: int, total: int, files: int) -> None:
    if watcher is not None:
        watcher(wire.Progress(bytes_present=done, bytes_wanted=total, files_done=files, state="COPYING"))
