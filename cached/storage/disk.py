"""The store: contents as directories, staged in `incoming/`, published by one rename, retired to `trash/`.

Layout below the root, all owned by the daemon:

    CACHEDIR.TAG                 backup programs pass by
    lock                         held with flock while a daemon runs
    contents/<content>/          0700, so that a descriptor of data/ leads nowhere else
        data/                    0555 directories, 0444 or 0555 files: what readers get
        manifest                 canonical manifest; its SHA-256 is the content id
        leaves                   32-byte digests of all 16 KiB leaves, files in canonical order
        coarse                   a SHA-256, and the coarse digests that have it (absent until a swarm asked for them)
        mtimes                   signed 64-bit little-endian nanoseconds, one per entry (absent when unknown)
        origin                   where the files lie in Cloud Storage, pinned (absent when it is unknown)
        sets/<set id>.record     signed set records (msgpack), so that a lost database loses no bytes
    incoming/<txid>/             the same shape, writable, never served
    trash/<name>/                on its way out

Nothing under `contents/` is ever half-written. All methods block and may be called from any thread; errors
of the file system leave as `NoSpace` or `CachedError` with the path.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import threading
from collections.abc import Callable, Collection, Container
from pathlib import Path

from cached import faults
from cached.errors import BadConfig, Busy, NoSpace, NotFound
from cached.sets.coarse import Coarse
from cached.sets.manifest import Manifest
from cached.sets.set import SignedRecord, Tier
from cached.storage import durability, files, publication, records, trash, tree
from cached.storage.staging import Staging, reopen

#: Bytes that stay free on the partition whatever is asked of the store: for manifests, records, the catalog.
HEADROOM = 16 << 20

STORE_RENAMED = faults.declare("store.renamed")
STORE_PUBLISHED = faults.declare("store.published")
TRASH_RENAMED = faults.declare("trash.renamed")

_TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# Cache sets of `cached`: they need no backup.\n"
_PARTS = ("contents", "incoming", "trash")
_CONTENT = re.compile(r"[0-9a-f]{64}\Z")
_TXID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")


class Store:
    """One tier's directory tree on one partition."""

    def __init__(self, root: Path, tier: Tier = "disk", *, headroom: int = HEADROOM) -> None:
        """Name the store; nothing is touched before `open_lock`. `headroom` is in bytes."""
        self.root = root
        self.tier: Tier = tier
        self.headroom = headroom
        self._lock: int | None = None
        self._emptying = threading.Lock()

    # The store as a whole.

    def open_lock(self) -> None:
        """Make the layout and take the lock for this process; `Busy` when another daemon has it.

        `BadConfig` when the root belongs to another user or others may write to it.
        """
        with files.translated(self.root):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_root()
            lock = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(lock)
                raise Busy(
                    f"another daemon uses the store {self.root}",
                    hint="give each instance its own [store] directories, for example with {instance}",
                    path=str(self.root),
                ) from error
            self._lock = lock
            for part in _PARTS:
                (self.root / part).mkdir(mode=0o700, exist_ok=True)
                (self.root / part).chmod(0o700)
            if not (self.root / "CACHEDIR.TAG").exists():
                files.write_atomic(self.root / "CACHEDIR.TAG", _TAG, mode=0o644)
            files.sync(self.root)

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def partition(self) -> int:
        """Return the partition's device number: stores with equal numbers share their free space."""
        return self.root.stat().st_dev

    def partition_free(self) -> int:
        """Return the bytes that an unprivileged process may still write here, headroom not deducted."""
        facts = os.statvfs(self.root)
        return facts.f_bavail * facts.f_frsize

    def partition_size(self) -> int:
        """Return the bytes of the whole partition, used or not."""
        facts = os.statvfs(self.root)
        return facts.f_blocks * facts.f_frsize

    def require(self, wanted: int) -> None:
        """Raise `NoSpace` unless the partition can take `wanted` more bytes and keep its headroom."""
        free = max(0, self.partition_free() - self.headroom)
        if wanted > free:
            raise NoSpace(
                f"{self.root} has {free} bytes left, {wanted} are needed",
                hint="free space on the partition or lower [store] capacity",
                bytes_needed=wanted,
                bytes_free=free,
            )

    def usage(self) -> dict[str, int]:
        """Return the physical bytes of each part, `contents`, `incoming` and `trash`. Walks everything."""
        return {part: tree.physical_bytes(self.root / part) for part in _PARTS}

    # Staging and publishing.

    def stage(self, txid: str) -> Staging:
        """Open the staging area `txid`, made when absent: a transfer cut short finds what it had."""
        return reopen(self._incoming(txid), self.tier)

    def publish(
        self,
        txid: str,
        content: str,
        manifest: Manifest | None = None,
        linked: Collection[str] = frozenset(),
        written: Callable[[], None] = lambda: None,
        made: Container[str] = frozenset(),
    ) -> bool:
        """Make a sealed staging area durable and visible as `content`; False when the store had it already.

        `manifest` is the content's, where the caller has it; `linked` names files that are links to those of others;
        `written` is called before all is synced, and raises what was met when some of it went to the device before.
        `made` names the files that this process has made whole, with their final mode and time: of those of a directory
        one is looked at. Modes and times are set, strays removed, all is synced, then renamed in one step.
        `IntegrityFailed` when the staged tree is not what the manifest says (bytes are not read again).
        Afterwards the staging area is gone. Repeating a publish that was cut short is safe.
        """
        staged = self._incoming(txid)
        home = self._home(content)
        with files.translated(staged):
            if not staged.exists() and home.exists():
                return False
            published = False
            if not home.exists():
                publication.settle(staged, content, self.tier, manifest, linked, written, made)
                published = files.rename_new(staged, home)
                faults.point(STORE_RENAMED)
            if not published:
                self._adopt_records(staged, content)
                if (trashed := self.discard(txid)) is not None:
                    self.empty(trashed)
                return False
            durability.sync_directories(home.parent, staged.parent)
        faults.point(STORE_PUBLISHED)
        return True

    def discard(self, txid: str) -> Path | None:
        """Move a staging area to the trash and return where (for `empty`); None when there is none."""
        return self._to_trash(self._incoming(txid), f"incoming-{txid}")

    # Contents.

    def has(self, content: str) -> bool:
        """Return whether the content's directory is there."""
        return (self._home(content) / "manifest").exists()

    def home(self, content: str) -> Path:
        """Return the content's directory; `NotFound` when the store has no such content."""
        path = self._home(content)
        if not path.is_dir():
            raise NotFound(f"content {content[:12]} is not in the store", content=content, tier=self.tier)
        return path

    def data(self, content: str) -> Path:
        """Return the path of the content's tree, for engines that need a path. Never shown to users."""
        return self.home(content) / "data"

    def manifest_bytes(self, content: str) -> bytes:
        """Return the canonical manifest as stored; not checked against the content id (see `scrub`)."""
        with files.translated(path := self.home(content) / "manifest"):
            return path.read_bytes()

    def manifest_size(self, content: str) -> int:
        """Return how many bytes the canonical manifest has."""
        with files.translated(path := self.home(content) / "manifest"):
            return path.stat().st_size

    def manifest(self, content: str) -> Manifest:
        """Return the content's manifest; `IntegrityFailed` when it does not hash to the content id."""
        return publication.checked_manifest(self.manifest_bytes(content), content)

    def leaves(self, content: str) -> bytes:
        """Return the leaf digests of all files, in canonical order; not checked against the roots."""
        with files.translated(path := self.home(content) / "leaves"):
            return path.read_bytes()

    def coarse(self, content: str) -> Coarse | None:
        """Return the coarse digests of a content, or None where there are none, or none that are whole."""
        return Coarse.kept(files.read_if_there(self.home(content) / "coarse"))

    def put_coarse(self, content: str, coarse: Coarse) -> None:
        """Keep the coarse digests of a content; what a crash leaves of them is noticed, and they are made again."""
        with files.translated(path := self.home(content) / "coarse"):
            files.write_atomic(path, coarse.to_keep(), durable=False)

    def mtimes(self, content: str) -> bytes | None:
        """Return the modification times as stored, or None when they are unknown."""
        return files.read_if_there(self.home(content) / "mtimes")

    def places(self, content: str) -> bytes | None:
        """Return where the files lie in the origin, as stored and not checked; None when it is unknown."""
        return files.read_if_there(self.home(content) / "origin")

    def has_places(self, content: str) -> bool:
        """Return whether it is known where the content's files lie in the origin."""
        return (self._home(content) / "origin").exists()

    def put_places(self, content: str, data: bytes) -> None:
        """Keep where the files lie in the origin, durably, in place of what was known before."""
        with files.translated(path := self.home(content) / "origin"):
            files.write_atomic(path, data)

    def open_content(self, content: str) -> int:
        """Open the content's root directory for reading: the descriptor a job gets. The caller closes it."""
        with files.translated(path := self.home(content) / "data"):
            return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)

    @staticmethod
    def open_file(dirfd: int, path: str) -> int:
        """Open a file or directory of a content for reading, below `dirfd` whatever links say.

        The caller closes it. `NotFound` when there is no such path or it leads outside.
        """
        return tree.open_for_reading(dirfd, path)

    # Set records beside the bytes.

    def stage_record(self, txid: str, signed: SignedRecord) -> None:
        """Put a set's signed record into a staging area that is there: published, and synced, with all the rest."""
        records.put(self._incoming(txid) / "sets", signed, durable=False)

    def put_record(self, content: str, signed: SignedRecord) -> None:
        """Keep a set's signed record beside its bytes, durably, in place of an earlier revision."""
        records.put(self.home(content) / "sets", signed)

    def get_records(self, content: str) -> list[SignedRecord]:
        """Return the readable signed records kept with a content, signatures not checked."""
        return records.read_all(self.home(content) / "sets")

    def drop_record(self, content: str, set_id: str) -> None:
        """Forget one set's record; nothing happens when there is none."""
        records.drop(self.home(content) / "sets", set_id)

    # Going.

    def retire(self, content: str) -> Path | None:
        """Move a content to the trash, durably, and return where (for `empty`); None when it is not there.

        Open descriptors keep reading files they have open; nothing more can be opened through the path.
        """
        return self._to_trash(self._home(content), f"content-{content}")

    def empty(self, trashed: Path) -> int:
        """Delete what `retire` or `discard` returned; return the bytes given back. Any number of calls may run."""
        if trashed.parent != self.root / "trash":
            raise ValueError(f"{trashed} is not in the trash of {self.root}")
        with self._emptying:
            return trash.empty(trashed)

    # Listings, for reconciliation.

    def list_contents(self) -> list[str]:
        """Return the content ids of the store, sorted."""
        return self._names("contents")

    def list_incoming(self) -> list[str]:
        """Return the ids of all staging areas, sorted."""
        return self._names("incoming")

    def list_trash(self) -> list[Path]:
        """Return what waits in the trash."""
        return [self.root / "trash" / name for name in self._names("trash")]

    # Inside.

    def _check_root(self) -> None:
        for facts in (self.root.lstat(), self.root.stat()):
            if facts.st_uid not in {os.geteuid(), 0}:
                raise BadConfig(
                    f"{self.root} belongs to user {facts.st_uid}", hint="choose a directory of your own"
                )
        if stat.S_IMODE(facts.st_mode) & 0o022:
            raise BadConfig(f"others may write to {self.root}", hint=f"chmod go-w {self.root}")

    def _home(self, content: str) -> Path:
        if not _CONTENT.match(content):
            raise NotFound(f"{content[:80]!r} is not a content id")
        return self.root / "contents" / content

    def _incoming(self, txid: str) -> Path:
        if not _TXID.match(txid):
            raise NotFound(f"{txid[:80]!r} is not a transaction id")
        return self.root / "incoming" / txid

    def _names(self, part: str) -> list[str]:
        with files.translated(self.root / part), os.scandir(self.root / part) as found:
            return sorted(entry.name for entry in found)

    def _to_trash(self, path: Path, label: str) -> Path | None:
        with files.translated(path):
            goal = trash.move(path, self.root / "trash", label)
        if goal is not None:
            faults.point(TRASH_RENAMED)
        return goal

    def _adopt_records(self, staged: Path, content: str) -> None:
        for signed in records.read_all(staged / "sets"):
            records.put(self.home(content) / "sets", signed)
