"""The operations of one node that a crash may cut short, each with what must hold afterwards."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cached import wire
from cached.client import CreateOptions
from cached.errors import NotFound
from cached.storage.disk import Store
from tests.daemons.cluster import Cluster
from tests.daemons.node import Node, Result
from tests.node.sharing_kit import lies_in

CREATE = [
    "create.reserved", "ingest.file", "create.copied", "stage.sealed", "ingest.sealed", "links.made", "create.sealed", "store.record", "store.settled",
    "store.synced", "store.renamed", "store.published", "create.published", "create.committed",
]  # fmt: skip
MEMORY = ["copy.file", "memory.copied"]
DELETE = [
    "delete.kept", "retire.going", "sharing.left", "trash.renamed", "retire.trashed", "trash.unlinked", "trash.emptied", "retire.emptied", "retire.forgotten",
]  # fmt: skip
REPAIR = ["repair.renamed", "repair.linked"]
#: Points that take a second node, or Cloud Storage: where they are walked instead.
ELSEWHERE = {
    "tests/daemons/test_origin_crash.py": {
        "gather.listed", "gather.read", "ahead.begun", "ahead.sent", "persist.stored", "persist.document", "persist.mapped", "persist.done",
        "recreate.described", "recreate.committed", "pool.claimed", "pool.read", "pool.got",
    },
    "tests/cluster": {
        "book.taken", "drive.offered", "offer.accepted", "offer.reserved", "receive.committed", "receive.metadata", "receive.prepared",
        "receive.published", "receive.transferred", "stage.prepared", "sweep.renewed",
    },
    "tests/objects": {"objects.created", "objects.sealed"},
}  # fmt: skip


@dataclass
class Walk:
    """One node, its sets, and what they must hold."""

    cluster: Cluster
    node: Node
    #: Acknowledged for good at the beginning.
    kept: Path = field(init=False)
    count: int = 0

    def __post_init__(self) -> None:
        self.kept = self.source("kept")
        self.node.cli("create", "kept", self.kept)

    def source(self, name: str) -> Path:
        """Return a new directory with new bytes."""
        self.count += 1
        files = {f"{index}": os.urandom(20_000) for index in range(3)}
        return self.cluster.tree(f"{name}-{self.count}", {**files, "sub/deep": b"deep", "empty": b""})

    def intact(self, name: str, source: Path) -> None:
        """Assert that the set has exactly the bytes of its source."""
        with self.node.client() as client:
            assert client.verify(name).ok
            for path in (path for path in source.rglob("*") if path.is_file()):
                with client.open(f"{name}/{path.relative_to(source)}") as opened:
                    assert opened.read() == path.read_bytes()

    def show(self, name: str) -> wire.SetView | None:
        """Return the set, None when there is none."""
        with self.node.client() as client, contextlib.suppress(NotFound):
            return client.show(name)
        return None

    def create(self, name: str, source: Path, **options: Any) -> None:
        """Create a set, without a process of its own."""
        with self.node.client() as client:
            client.create(name, [source], CreateOptions(**options))

    def absent_or_whole(self, name: str, source: Path) -> bool:
        """Assert that the set is one or the other, and return whether it is there."""
        there = self.show(name) is not None
        if there:
            self.intact(name, source)
        return there

    def settled(self) -> None:
        """Assert that catalog and disk agree, soon, and that nothing is left over."""
        self.cluster.wait_for(lambda: not self.disagreement(), what=f"a tidy node: {self.disagreement()}")
        self.intact("kept", self.kept)

    def disagreement(self) -> str:
        """Return what is wrong; empty when catalog and directories say the same, and nothing is on its way."""
        with sqlite3.connect(f"file:{self.node.state}/catalog.db?mode=ro", uri=True) as catalog:
            rows = {
                name: catalog.execute(f"SELECT * FROM {name}").fetchall()
                for name in ("reservations", "transfers")
            }
            contents = set(catalog.execute("SELECT content, tier, state FROM contents"))
            [(charged,)] = catalog.execute("SELECT total(physical) FROM contents WHERE tier = 'disk'")
            replicas = set(catalog.execute("SELECT content, state FROM replicas"))
        catalog.close()
        left = {name: found for name, found in rows.items() if found}
        for root, tier in ((self.node.disk, "disk"), (self.node.memory, "memory")):
            left |= {
                f"{tier} {part}": names
                for part in ("incoming", "trash")
                if (names := os.listdir(root / part))
            }
            on_disk = {(name, tier, "STABLE") for name in os.listdir(root / "contents")}
            if on_disk != {row for row in contents if row[1] == tier}:
                left[f"{tier} contents"] = f"{on_disk} on disk, {contents} in the catalog"
        if {(content, "COMMITTED") for content, tier, _ in contents if tier == "disk"} != replicas:
            left["replicas"] = f"{replicas}, contents {contents}"
        if not left and charged != (takes := lies_in(Store(self.node.disk))):
            left["charged"] = f"{charged} bytes by the catalog, {takes} by what lies there"
        tiers = self.node.status()["tiers"]
        left |= {
            f"{name} {key}": tier[key]
            for name, tier in tiers.items()
            for key in ("reserved_bytes", "going_bytes")
            if tier[key]
        }
        return "; ".join(f"{key}: {value}" for key, value in left.items())

    def forget(self, name: str) -> None:
        """Delete a set, and what an earlier one of the name has left, and wait until nothing is left of it."""
        with self.node.client() as client:
            while self.show(name) is not None:
                client.delete(name, everywhere=True)
        self.settled()


#: An operation: prepares, returns what to call while the fault is armed, and a check to be made afterwards.
Operation = Callable[[Walk], tuple[Callable[[], Result], Callable[[bool], None]]]


def create(walk: Walk, *options: str) -> Any:
    source = walk.source("subject")

    def check(acknowledged: bool) -> None:
        assert walk.absent_or_whole("subject", source) or not acknowledged

    return lambda: walk.node.cli("create", "subject", source, *options, check=False), check


def replace(walk: Walk) -> Any:
    old, new = walk.source("old"), walk.source("new")
    walk.create("subject", old)

    def check(acknowledged: bool) -> None:
        with walk.node.client() as client, client.open("subject/0") as opened:
            moved = opened.read() == (new / "0").read_bytes()
        walk.intact("subject", new if acknowledged or moved else old)

    return lambda: walk.node.cli("create", "subject", new, "--replace", check=False), check


def create_in_memory(walk: Walk) -> Any:
    return create(walk, "--tier", "memory")


def update(walk: Walk) -> Any:
    source = walk.source("subject")
    walk.create("subject", source)

    def check(acknowledged: bool) -> None:
        walk.intact("subject", source)
        assert walk.show("subject").share in ({"public"} if acknowledged else {"private", "public"})

    return lambda: walk.node.cli("update", "subject", "--share", "public", check=False), check


def extend(walk: Walk) -> Any:
    source = walk.source("subject")
    walk.create("subject", source, lease_seconds=86_400)

    def check(acknowledged: bool) -> None:
        walk.intact("subject", source)
        assert walk.show("subject").lease.seconds_left > (9.9 if acknowledged else 0.9) * 86_400

    return lambda: walk.node.cli("extend", "subject", "10d", check=False), check


def delete(walk: Walk) -> Any:
    """Delete a set that has a file in common with another."""
    source = walk.source("subject")
    (source / "shared").write_bytes((walk.kept / "0").read_bytes())
    walk.create("subject", source)

    def check(acknowledged: bool) -> None:
        assert not (walk.absent_or_whole("subject", source) and acknowledged)

    return lambda: walk.node.cli("delete", "subject", "--everywhere", check=False), check


def reclaim(walk: Walk) -> Any:
    """Space for one set only: the second takes that of the first, whose lease is over."""
    old, new = walk.source("expired"), walk.source("subject")
    for source in (old, new):
        (source / "big").write_bytes(os.urandom(30_000_000))
    walk.node.cli("create", "expired", old, "--lease", "1s")
    walk.cluster.wait_for(
        lambda: walk.node.show("expired")["lease"]["seconds_left"] == 0, what="a lease to end"
    )

    def check(acknowledged: bool) -> None:
        assert walk.absent_or_whole("subject", new) or not acknowledged
        if acknowledged:
            assert walk.show("expired").lease is None
        walk.forget("expired")

    return lambda: walk.node.cli("create", "subject", new, check=False), check


WALK: list[tuple[str, Operation]] = [
    *((point, create) for point in CREATE),
    ("create.committed", replace),
    *((point, create_in_memory) for point in MEMORY),
    ("update.kept", update),
    ("extend.kept", extend),
    *((point, delete) for point in DELETE),
    ("reclaim.chosen", reclaim),
]
#: What can be prepared, and cleared away after another crash, without coming by the points at which these are to die
#: (a start makes memory copies anew, and so comes by theirs).
SIMPLE = (create, update, extend)
AT_START = {"recover.cleaned", "recover.adopted"}
