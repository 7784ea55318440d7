"""A node in one directory, behind the same verbs as the real one; it can be told to fail or to dawdle."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cached import packets, wire
from cached.addresses import Address
from cached.api.verbs import AttestVerbs, Verbs
from cached.errors import Forbidden, NotFound
from cached.hands import Hands
from cached.node.caller import Caller
from cached.sets.names import SetRef
from cached.units import rfc3339
from tests.api.fake_objects import FakeCloud


@dataclass(kw_only=True)
class FakeGrant:
    seconds: int = 86400
    shortened: bool = False
    reason: str = ""


@dataclass(kw_only=True)
class FakeOpened:
    set: wire.SetHead
    kind: str
    size: int
    executable: bool
    root: str
    fd: int
    pin: str


@dataclass(kw_only=True)
class FakeSet:
    id: str
    name: str
    owner: str
    data: Path
    mtimes: dict[str, int] = field(default_factory=dict)
    here: bool = True

    @property
    def head(self) -> wire.SetHead:
        return wire.SetHead(id=self.id, name=self.name, owner=self.owner, content=self.id * 2)


class FakeCreation:
    def __init__(self, node: FakeNode, caller: Caller, name: str, bytes_: int, files: int) -> None:
        self.node, self.caller, self.name = node, caller, name
        self.announced = (bytes_, files)
        self.bytes_wanted = bytes_
        self.txid = f"tx{len(node.creations)}"
        self.grant = node.grant
        self.bytes_done = self.files_done = 0
        self.data = node.root / "incoming" / self.txid
        self.data.mkdir(parents=True)
        self.mtimes: dict[str, int] = {}
        self.state = "open"

    async def add(self, entries: Sequence[wire.NewEntry], fds: Sequence[int]) -> None:
        try:
            if self.node.add_error is not None:
                raise self.node.add_error
            await self.node.gate.wait()
            await asyncio.to_thread(self._copy, entries, list(fds))
        finally:
            packets.close_all(fds)

    def _copy(self, entries: Sequence[wire.NewEntry], fds: list[int]) -> None:
        self.node.packets.append((len(entries), len(fds)))
        bundle, at = fds.pop(0) if any(entry.bundled for entry in entries) else -1, 0
        for entry in entries:
            path = self.data / entry.path
            self.mtimes[entry.path] = entry.mtime_ns
            if entry.kind == "dir":
                path.mkdir()
            elif entry.kind == "link":
                path.symlink_to(entry.target)
            else:
                if entry.bundled:
                    data = os.pread(bundle, entry.size, at)
                    at += entry.size
                else:
                    data = os.pread(fds.pop(0), entry.size + 1, 0)
                assert len(data) == entry.size
                path.write_bytes(data)
                path.chmod(0o555 if entry.executable else 0o444)
                self.bytes_done += entry.size
                self.files_done += 1

    async def draw(self) -> None:
        await self.node.gate.wait()
        for path, data in self.node.objects.items():
            (self.data / path).write_bytes(data)
            self.bytes_done += len(data)

    async def ahead(self) -> None:
        """Nothing of it is in an origin."""

    async def seal(self) -> wire.SetView:
        await self.node.gate.wait()
        self.state = "sealed"
        self.added = self.node.put(self.name, self.data, self.caller.user, self.mtimes)
        return self.node.view(self.added)

    async def kept(self) -> wire.SetView:
        await self.node.origin_gate.wait()
        if self.node.kept_error is not None:
            raise self.node.kept_error
        return self.node.view(self.added)

    @property
    def upload(self) -> wire.Progress | None:
        waits = self.state == "sealed" and not self.node.origin_gate.is_set()
        return wire.Progress(bytes_present=1, bytes_wanted=2, state="UPLOADING") if waits else None

    async def abort(self) -> None:
        if self.state == "open":
            self.state = "aborted"


class FakeNode:
    """Everything the real node's verbs do, as far as a socket can tell."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sets: dict[str, FakeSet] = {}
        self.grant = FakeGrant()
        self.creations: list[FakeCreation] = []
        self.packets: list[tuple[int, int]] = []
        self.pins: Counter[str] = Counter()
        self.calls: list[tuple[Any, ...]] = []
        self.callers: set[Caller] = set()
        self.add_error: Exception | None = None
        self.begin_error: Exception | None = None
        self.kept_error: Exception | None = None
        #: What a set is made of that is drawn; and closed while the origin does not have what was sealed.
        self.objects: dict[str, bytes] = {}
        self.origin_gate = asyncio.Event()
        self.origin_gate.set()
        self.cloud = FakeCloud(root)
        self.attests = AttestVerbs(sign=attest, check=check_attested, read=Hands().read)
        #: Closed: creations, fetches and long work wait.
        self.gate = asyncio.Event()
        self.gate.set()
        self.reports = [wire.Progress(bytes_present=n, bytes_wanted=2, state="TRANSFERRING") for n in (1, 2)]

    def put(
        self, name: str, data: Path, owner: str = "root", mtimes: dict[str, int] | None = None
    ) -> FakeSet:
        set_id = hashlib.sha256(f"{name} {len(self.sets)}".encode()).hexdigest()[:32]
        self.sets[set_id] = FakeSet(id=set_id, name=name, owner=owner, data=data, mtimes=mtimes or {})
        return self.sets[set_id]

    def find(self, ref: SetRef) -> FakeSet:
        for each in reversed(self.sets.values()):
            if ref.id_prefix and each.id.startswith(ref.id_prefix):
                return each
            if each.name == ref.name and ref.owner in (None, each.owner):
                return each
        raise NotFound(f"there is no set {ref}", hint="cached list")

    def entries(self, found: FakeSet) -> list[wire.FileView]:
        paths = sorted(found.data.rglob("*"), key=lambda path: os.fsencode(path.relative_to(found.data)))
        return [self._entry(found, path) for path in paths]

    def _entry(self, found: FakeSet, path: Path) -> wire.FileView:
        name, facts = str(path.relative_to(found.data)), path.lstat()
        when = found.mtimes.get(name, facts.st_mtime_ns)
        if path.is_symlink():
            return wire.FileView(
                path=name, kind="link", target=os.readlink(path), mtime=rfc3339(when / 1e9), mtime_ns=when
            )
        if path.is_dir():
            return wire.FileView(path=name, kind="dir", mtime=rfc3339(when / 1e9), mtime_ns=when)
        return wire.FileView(
            path=name,
            kind="file",
            size=facts.st_size,
            executable=bool(facts.st_mode & 0o111),
            mtime=rfc3339(when / 1e9),
            mtime_ns=when,
            root=root_of(path.read_bytes()) or None,
        )

    def view(self, found: FakeSet) -> wire.SetView:
        files = [entry for entry in self.entries(found) if entry.kind == "file"]
        return wire.SetView(
            name=found.name,
            owner=found.owner,
            id=found.id,
            content=found.head.content,
            revision=1,
            bytes=sum(each.size for each in files),
            files=len(files),
            state="COMMITTED",
            requirements="",
            methods=("direct",),
            share="private",
            tier="disk",
            replicas_wanted=-1,
            originator="fake",
        )

    # Verbs

    def open_now(self, caller: Caller, ref: SetRef, path: str) -> FakeOpened | None:
        self.callers.add(caller)
        found = self.find(ref)
        if not found.here:
            return None
        if path == "explode":
            raise RuntimeError("secret detail")
        try:
            fd = os.open(found.data / path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"{found.name} has no {path}") from None
        facts = os.fstat(fd)
        is_dir = stat.S_ISDIR(facts.st_mode)
        self.pins[found.id] += 1
        return FakeOpened(
            set=found.head,
            kind="dir" if is_dir else "file",
            size=0 if is_dir else facts.st_size,
            executable=not is_dir and bool(facts.st_mode & 0o111),
            root="" if is_dir else root_of((found.data / path).read_bytes()),
            fd=fd,
            pin=found.id,
        )

    async def open_path(
        self,
        caller: Caller,
        ref: SetRef,
        path: str,
        *,
        fetch: bool,
        progress: Callable[[wire.Progress], None] | None,
    ) -> FakeOpened:
        found = self.find(ref)
        if not fetch and not found.here:
            raise NotFound("this node has no replica", hint="leave --no-fetch out")
        for report in self.reports if progress else ():
            assert progress is not None
            progress(report)
            await asyncio.sleep(0)
        await self.gate.wait()
        found.here = True
        opened = self.open_now(caller, ref, path)
        assert opened is not None
        return opened

    def release(self, pin: str) -> None:
        self.pins[pin] -= 1
        assert self.pins[pin] >= 0

    async def begin(
        self, caller: Caller, name: str, options: wire.CreateOptions, total_bytes: int, total_files: int
    ) -> FakeCreation:
        self.calls.append(("begin", name, options, total_bytes, total_files))
        if self.begin_error is not None:
            raise self.begin_error
        self.creations.append(FakeCreation(self, caller, name, total_bytes, total_files))
        return self.creations[-1]

    async def list_sets(self, caller: Caller, local: bool) -> list[wire.SetView]:
        return [self.view(each) for each in self.sets.values() if each.here or not local]

    async def show(self, caller: Caller, ref: SetRef) -> wire.SetView:
        return self.view(self.find(ref))

    async def files(self, caller: Caller, ref: SetRef) -> list[wire.FileView]:
        return self.entries(self.find(ref))

    async def update(self, caller: Caller, ref: SetRef, changes: dict[str, Any]) -> wire.SetView:
        self.calls.append(("update", ref, changes))
        return self.view(self.find(ref))

    async def extend(self, caller: Caller, ref: SetRef, seconds: int, everywhere: bool) -> wire.ExtendReply:
        grant = wire.GrantView(node="fake", granted=True, seconds=seconds)
        return wire.ExtendReply(set=self.view(self.find(ref)), grants=[grant] * (1 + everywhere))

    async def delete(self, caller: Caller, ref: SetRef, everywhere: bool, dry_run: bool) -> wire.DeleteReply:
        found = self.find(ref)
        if not dry_run:
            del self.sets[found.id]
        return wire.DeleteReply(set=found.id, name=found.name, state="WITHDRAWN", dry_run=dry_run)

    async def replicate(
        self,
        caller: Caller,
        ref: SetRef,
        replicas: int | None,
        to: Sequence[str],
        wait: bool,
        timeout: float,
        progress: Callable[[wire.Progress], None],
    ) -> wire.ReplicateReply:
        self.calls.append(("replicate", replicas, tuple(to), wait, timeout))
        self.find(ref)
        return await self._work(progress)

    async def fetch(
        self, caller: Caller, ref: SetRef, progress: Callable[[wire.Progress], None]
    ) -> wire.ReplicateReply:
        self.find(ref)
        return await self._work(progress)

    async def _work(self, progress: Callable[[wire.Progress], None]) -> wire.ReplicateReply:
        for report in self.reports:
            progress(report)
            await asyncio.sleep(0.01)
        await self.gate.wait()
        self.calls.append(("worked",))
        return wire.ReplicateReply(items=[], complete=True, wanted=1, have=1)

    async def verify(
        self, caller: Caller, ref: SetRef, repair: bool, progress: Callable[[wire.Progress], None]
    ) -> wire.VerifyReply:
        progress(self.reports[0])
        await asyncio.sleep(0.01)
        if repair:
            raise NotFound("no other holder")
        return wire.VerifyReply(ok=True, damaged=[], bytes=2)

    async def match(self, caller: Caller, ref: SetRef) -> list[wire.MatchView]:
        return [wire.MatchView(node="fake", matches=True, set_side=True, node_side=True, reasons=[])]

    async def nodes(self, caller: Caller) -> list[wire.NodeView]:
        return []

    async def status(self, caller: Caller) -> dict[str, Any]:
        return {"user": caller.user, "admin": caller.admin}

    async def usage(
        self, caller: Caller, user: str | None, since: str | None, scope: str | None
    ) -> dict[str, Any]:
        self.calls.append(("usage", user, since, scope))
        return {"items": []}

    async def limits(self, caller: Caller) -> wire.LimitsView:
        return wire.LimitsView(upload_bytes_per_second=None, download_bytes_per_second=7, configured=True)

    async def limit(self, caller: Caller, changes: Mapping[str, int | None]) -> wire.LimitsView:
        self.calls.append(("limit", dict(changes)))
        return await self.limits(caller)

    async def locate(self, caller: Caller, names: Sequence[str], job_ad: str | None) -> wire.LocateReply:
        self.calls.append(("locate", tuple(names), job_ad))
        return wire.LocateReply(items=[], directory_age_seconds=0.5)

    def verbs(self) -> Verbs:
        names = [name for name in Verbs.__dataclass_fields__ if name not in ("objects", "attests")]
        return Verbs(
            **{name: getattr(self, name) for name in names}, objects=self.cloud.verbs(), attests=self.attests
        )


def attest(caller: Caller, sha256: str, address: Address) -> str:
    """Stands for the signed statement: the facts alone."""
    return json.dumps([caller.user, sha256, address.bucket, address.name])


def check_attested(statement: str, sha256: str, address: Address) -> str:
    user, *facts = json.loads(statement or "[null]")
    if facts != [sha256, address.bucket, address.name]:
        raise Forbidden(f"{address}: no node attests who dumped it", hint="trust=")
    return str(user)


def root_of(data: bytes) -> str:
    """Stands for the merkle root: the tests only compare."""
    return hashlib.sha256(data).hexdigest() if data else ""
