"""Files that several contents have: one inode, a hard link in each. Links are made in the staging area, from contents
that are published; nobody ever writes through one.
"""

from __future__ import annotations

import os
import stat
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

import msgspec

from cached import faults
from cached.errors import CachedError, SourceChanged
from cached.leases import capacity
from cached.leases.sharing import Name
from cached.sets.leaves import LeafIndex
from cached.sets.manifest import Entry, Manifest
from cached.sets.merkle import check_leaves, root_from_leaves
from cached.storage import copying, fileindex, files, repair, tree
from cached.storage.disk import Store
from cached.storage.fileindex import SMALLEST, FileIndex
from cached.storage.publication import file_mode
from cached.storage.staging import Staging

LINKS_MADE = faults.declare("links.made")

#: Donors that are looked at in any case; seconds for the others, besides those that it takes to copy what is wanted, at
#: so many bytes a second.
ALWAYS = 64
LOOK = 0.1
COPIED = 200 << 20
#: In the staging area: a link before it takes the place of a file.
_TEMPORARY = "link"
#: How a file is opened to be read once more.
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Donor(msgspec.Struct, frozen=True, kw_only=True):
    """A published content whose files may be linked."""

    content: str
    #: Its bytes were verified since the machine started; otherwise each file is before it is linked.
    trusted: bool
    #: Paths that are known to be damaged.
    withheld: frozenset[str] = frozenset()


class Linked(msgspec.Struct, frozen=True, kw_only=True):
    """What of a staged content lies here already, in other contents."""

    paths: frozenset[str] = frozenset()
    #: What these files would take on the partition.
    bytes: int = 0
    #: Their sizes.
    logical: int = 0
    #: The contents that they were linked from.
    donors: frozenset[str] = frozenset()


NOTHING = Linked()


def link(
    store: Store, staging: Staging, manifest: Manifest, donors: Iterable[Donor], index: FileIndex
) -> Linked:
    """Put links to files of other contents in the place of the staged files with the same bytes, there or not.

    Whatever cannot be linked stays as it is: a file with too many links, one that is executable in one content only,
    one that is not what its manifest says. The donors come with the likely ones first: beyond a few, no more time is
    spent on reading their manifests than copying would take.
    """
    wanted: dict[int, list[Entry]] = {}
    for entry in manifest.files():
        if entry.size > SMALLEST:
            wanted.setdefault(fileindex.short(entry.root), []).append(entry)
    done: dict[str, Entry] = {}
    used, roots = set(), frozenset(wanted)
    size = sum(entry.size for same in wanted.values() for entry in same)
    until = time.monotonic() + LOOK + size / COPIED
    for number, donor in enumerate(donors):
        if not wanted or (number >= ALWAYS and time.monotonic() > until):
            break
        with suppress(CachedError, OSError):
            linked = _link_from(store, staging, wanted, donor, index.matching(store, donor.content, roots))
            if linked:
                used.add(donor.content)
                done.update((entry.path, entry) for entry in linked)
                _take_off(wanted, done)
    faults.point(LINKS_MADE)
    return Linked(
        paths=frozenset(done),
        bytes=sum(capacity.on_partition(entry.size) for entry in done.values()),
        logical=sum(entry.size for entry in done.values()),
        donors=frozenset(used),
    )


def _take_off(wanted: dict[int, list[Entry]], done: dict[str, Entry]) -> None:
    for root in {fileindex.short(entry.root) for entry in done.values()} & wanted.keys():
        left = [entry for entry in wanted[root] if entry.path not in done]
        if left:
            wanted[root] = left
        else:
            del wanted[root]


def _link_from(
    store: Store, staging: Staging, wanted: dict[int, list[Entry]], donor: Donor, likely: Collection[int]
) -> list[Entry]:
    if not likely:
        return []
    linked = []
    data_fd = store.open_content(donor.content)
    try:
        with tree.Parents(data_fd) as theirs, _Placing(staging) as placing:
            for there in fileindex.matches(store, donor.content, likely):
                if there.path in donor.withheld:
                    continue
                for entry in wanted.get(fileindex.short(there.root), ()):
                    same = (entry.root, entry.size, entry.executable) == (
                        there.root,
                        there.size,
                        there.executable,
                    )
                    if same and placing.put(theirs, there.path, entry, verify=not donor.trusted):
                        linked.append(entry)
    finally:
        os.close(data_fd)
    return linked


def leaves_of(store: Store, donors: Iterable[str], linked: Iterable[Entry]) -> Iterator[tuple[Entry, bytes]]:
    """Iterate over those of these files whose leaves are kept with another content, each with its leaves."""
    wanted: dict[bytes, list[Entry]] = {}
    for entry in linked:
        wanted.setdefault(entry.root, []).append(entry)
    for donor in donors:
        with suppress(CachedError, OSError):
            manifest = store.manifest(donor)
            index = LeafIndex(manifest)
            with (store.home(donor) / "leaves").open("rb") as kept:
                for there in manifest.files():
                    if there.root in wanted:
                        part = index.slice(there.path)
                        found = os.pread(kept.fileno(), part.stop - part.start, part.start)
                        if check_leaves(found, there.size, there.root):
                            yield from ((entry, found) for entry in wanted.pop(there.root))


class _Placing:
    """Puts links into a staged tree."""

    def __init__(self, staging: Staging) -> None:
        self._parents = tree.Parents(staging.data_fd, make=True)
        self._top = os.open(staging.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._parents.__exit__()
        os.close(self._top)

    def put(self, theirs: tree.Parents, path: str, entry: Entry, *, verify: bool) -> bool:
        """Link the file of a donor; False, and no change, when it is not to be had."""
        try:
            source, name = theirs.of(path)
            if not _is_sound(source, name, entry) or (verify and not _has_root(source, name, entry)):
                return False
            self._link(source, name, *self._parents.of(entry.path))
        except (OSError, SourceChanged):
            return False
        return True

    def _link(self, source: int, name: str, goal: int, its_name: str) -> None:
        try:
            os.link(name, its_name, src_dir_fd=source, dst_dir_fd=goal, follow_symlinks=False)
        except FileExistsError:
            with suppress(FileNotFoundError):
                os.unlink(_TEMPORARY, dir_fd=self._top)
            os.link(name, _TEMPORARY, src_dir_fd=source, dst_dir_fd=self._top, follow_symlinks=False)
            os.rename(_TEMPORARY, its_name, src_dir_fd=self._top, dst_dir_fd=goal)


def _is_sound(directory: int, name: str, entry: Entry) -> bool:
    facts = os.stat(name, dir_fd=directory, follow_symlinks=False)
    return (
        stat.S_ISREG(facts.st_mode)
        and facts.st_size == entry.size
        and facts.st_uid == os.geteuid()
        and stat.S_IMODE(facts.st_mode) == file_mode(executable=entry.executable)
    )


def _has_root(directory: int, name: str, entry: Entry) -> bool:
    fd = os.open(name, _OPEN, dir_fd=directory)
    try:
        return root_from_leaves(copying.read_leaves(fd, entry.size, lambda _: None)) == entry.root
    finally:
        os.close(fd)


def unlink_all(staged: Path) -> None:
    """Remove what is linked from elsewhere out of a staging area: whoever goes on with it links anew."""
    data = staged / "data"
    if not data.is_dir():
        return
    with files.translated(data):
        root = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for _, fd, entries in tree.walk(root):
                for entry in entries:
                    facts = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(facts.st_mode) and facts.st_nlink > 1:
                        os.chmod(".", 0o700, dir_fd=fd)
                        os.unlink(entry.name, dir_fd=fd)
        finally:
            os.close(root)


def names(store: Store, content: str) -> tuple[int, list[Name]]:
    """Return what a content takes as if it shared nothing, and its names of files that have others, too.

    Names in the trash do not count: they are on their way out.
    """
    going = _in_trash(store)
    manifest = store.manifest(content)
    found = []
    data_fd = store.open_content(content)
    try:
        with tree.Parents(data_fd) as parents:
            for entry in manifest.files():
                if entry.size <= SMALLEST:
                    continue
                with suppress(OSError):
                    directory, name = parents.of(entry.path)
                    facts = os.stat(name, dir_fd=directory, follow_symlinks=False)
                    if facts.st_nlink > 1:
                        links = facts.st_nlink - going[facts.st_ino]
                        size = capacity.on_partition(entry.size)
                        found.append(Name(content=content, inode=facts.st_ino, links=links, bytes=size))
    finally:
        os.close(data_fd)
    return capacity.physical(manifest), found


class SameFile(NamedTuple):
    """A path of a content, and the path of another content where the same file is."""

    path: str
    other: str
    its_path: str


def same(store: Store, content: str, paths: Collection[str], others: Iterable[str]) -> list[SameFile]:
    """Return which files of other contents are these files of a content; none of one whose manifest is damaged."""
    with suppress(CachedError):
        return _same(store, content, paths, others)
    return []


def _same(store: Store, content: str, paths: Collection[str], others: Iterable[str]) -> list[SameFile]:
    wanted = {entry.path: entry for entry in store.manifest(content).files() if entry.path in paths}
    roots = {fileindex.short(entry.root) for entry in wanted.values() if entry.size > SMALLEST}
    inodes = {_inode(store, content, path): path for path in wanted}
    inodes.pop(0, None)
    found = []
    for other in others:
        with suppress(CachedError):
            for there in fileindex.matches(store, other, roots):
                path = inodes.get(_inode(store, other, there.path))
                if path is not None:
                    found.append(SameFile(path, other, there.path))
    return found


def mend(store: Store, content: str, paths: Collection[str], kin: Mapping[str, Collection[str]]) -> set[str]:
    """Put links to whole files of other contents in the place of damaged ones; return the paths that are mended.

    `kin` are the contents that may have them, each with the paths that are known to be damaged there.
    """
    broken = {
        entry.path: entry
        for entry in store.manifest(content).files()
        if entry.path in paths and entry.size > SMALLEST
    }
    mended: set[str] = set()
    for donor, withheld in kin.items():
        roots = {fileindex.short(entry.root) for path, entry in broken.items() if path not in mended}
        with suppress(CachedError, OSError, SourceChanged):
            for there in fileindex.matches(store, donor, roots) if roots else ():
                for path, entry in broken.items():
                    same_bytes = (entry.size, entry.executable, entry.root) == there[1:]
                    if path in mended or there.path in withheld or not same_bytes:
                        continue
                    if _is_whole(store, donor, there.path, entry):
                        repair.replace_by_link(store, content, path, donor, there.path)
                        mended.add(path)
    return mended


def _is_whole(store: Store, content: str, path: str, entry: Entry) -> bool:
    data_fd = store.open_content(content)
    try:
        with tree.Parents(data_fd) as parents:
            directory, name = parents.of(path)
            return _is_sound(directory, name, entry) and _has_root(directory, name, entry)
    finally:
        os.close(data_fd)


def _inode(store: Store, content: str, path: str) -> int:
    """Return the inode of a file; 0 when it is not there."""
    with suppress(OSError):
        return os.lstat(store.data(content) / path).st_ino
    return 0


def _in_trash(store: Store) -> Counter[int]:
    """Count the names of each inode in the trash; before names are counted elsewhere, for they only get fewer."""
    found: Counter[int] = Counter()
    for trashed in store.list_trash():
        with suppress(OSError):
            root = os.open(trashed, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                for _, _, entries in tree.walk(root):
                    found.update(entry.stat(follow_symlinks=False).st_ino for entry in entries)
            finally:
                os.close(root)
    return found
