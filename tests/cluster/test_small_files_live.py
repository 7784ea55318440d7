"""A set of very many small files, on its whole way: made, copied by either method, read, kept over restarts, deleted."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.cluster.kit import contents, holders, start, trees

pytestmark = pytest.mark.daemon

FILES = 20_000
SUM = 'cd "$1" && find . -type f | LC_ALL=C sort | xargs cat | sha256sum && find . -type f | wc -l'


def small_files(top: Path) -> Path:
    """Write files of 0 to 4 KB, five hundred in a directory, some of them executable."""
    for number in range(FILES):
        folder = top / f"{number // 500:03d}"
        if number % 500 == 0:
            folder.mkdir(parents=True)
        path = folder / f"{number:06d}"
        path.write_bytes((b"%d " % number) * (number % 600))
        if number % 1000 == 7:
            path.chmod(0o755)
    return top


def told(top: Path) -> str:
    done = subprocess.run(["sh", "-c", SUM, "sh", str(top)], check=True, capture_output=True, text=True)
    return done.stdout


@pytest.mark.timeout(900)
def test_twenty_thousand_small_files_on_their_whole_way(cluster):
    a, b, c = start(cluster, "abc", store_capacity="2GB")
    source = small_files(cluster.root / "many")
    made = a.cli("create", "many", source, "--replicas", "0", "--methods", "direct", timeout=300).json()
    assert made["files"] == FILES
    a.cli("replicate", "many", "--to", "b", "--wait", timeout=300)
    a.cli("update", "many", "--methods", "bittorrent")
    a.cli("replicate", "many", "--to", "c", "--wait", timeout=300)
    assert holders(a, "many") == {"a", "b", "c"}
    expected = told(source)
    for node in (a, b, c):
        ran = node.cli("exec", "--no-fetch", "many", "--", "sh", "-c", SUM, "sh", "{many}", timeout=300)
        assert ran.stdout.split() == expected.split()
    assert len(c.cli("files", "many", timeout=300).items()) == FILES + FILES // 500
    b.cli("get", "many", cluster.root / "back", timeout=300)
    assert told(cluster.root / "back") == expected
    assert (cluster.root / "back/000/000007").stat().st_mode & 0o111
    assert (cluster.root / "back/000/000008").stat().st_mtime_ns == (source / "000/000008").stat().st_mtime_ns
    b.stop()
    c.kill()
    for node in (b, c):
        node.restart()
    cluster.together()
    for node in (b, c):
        ran = node.cli("exec", "--no-fetch", "many", "--", "sh", "-c", SUM, "sh", "{many}", timeout=300)
        assert ran.stdout.split() == expected.split()
        assert node.cli("verify", "many", timeout=300).json()["ok"]
    a.cli("delete", "many", "--everywhere")
    for node in (a, b, c):
        cluster.wait_for(
            lambda node=node: not contents(node) + trees(node), seconds=300, what="all to be gone"
        )
