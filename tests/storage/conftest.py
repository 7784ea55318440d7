from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cached import faults
from cached.storage.disk import Store
from cached.storage.ingest import Ingest

Tree = dict[str, bytes | str | None]


@pytest.fixture
def roomy() -> Iterator[Path]:
    """A short directory that other users may enter."""
    path = Path(tempfile.mkdtemp(prefix="cached-"))
    path.chmod(0o755)
    yield path
    for where, names, _ in os.walk(path):
        for name in names:
            if not (Path(where) / name).is_symlink():
                (Path(where) / name).chmod(0o700)
    shutil.rmtree(path)


@pytest.fixture
def store(roomy: Path) -> Iterator[Store]:
    store = Store(roomy / "store")
    store.open_lock()
    yield store
    store.close()


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    faults.arm("")


@pytest.fixture
def ingested(roomy: Path) -> Callable[..., str]:
    """Commit a tree: bytes are files (executable under bin/), strings link targets, None directories."""
    count = iter(range(1_000_000))

    def ingest(store: Store, tree: Tree, *, publish: bool = True) -> str:
        txid = f"tx{next(count)}"
        total = sum(len(value) for value in tree.values() if isinstance(value, bytes))
        work = Ingest(store, txid, max_bytes=total)
        source = roomy / f"source-{txid}"
        for path, value in tree.items():
            if value is None:
                work.add_dir(path, mtime_ns=1_000_000_000)
            elif isinstance(value, str):
                work.add_link(path, value, mtime_ns=2_000_000_000)
            else:
                source.write_bytes(value)
                fd = os.open(source, os.O_RDONLY)
                work.add_file(path, fd, len(value), path.startswith("bin/"), mtime_ns=3_000_000_000)
                os.close(fd)
                source.unlink()
        _, content = work.seal()
        work.close()
        if publish:
            assert store.publish(txid, content)
        return content

    return ingest


@pytest.fixture
def work(store):
    ingest = Ingest(store, "tx", max_bytes=10_000_000)
    yield ingest
    ingest.close()


@pytest.fixture
def opened(roomy):
    held = []

    def open_(data: bytes, name: str = "source") -> int:
        (roomy / name).write_bytes(data)
        held.append(os.open(roomy / name, os.O_RDONLY))
        return held[-1]

    yield open_
    for fd in held:
        os.close(fd)
