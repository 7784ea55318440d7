"""What goes into a set comes out of it: any tree of files, whatever its names and sizes, and the options it is given."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import threading
from pathlib import Path

import pytest

pytestmark = pytest.mark.daemon


def told(root: Path) -> dict[str, tuple[object, ...]]:
    """Return everything that a copy of a tree must share with it."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, directories, files in os.walk(root):
        for name in directories + files:
            path = Path(folder, name)
            facts, key = path.lstat(), os.path.relpath(path, root)
            if path.is_symlink():
                found[key] = ("link", os.readlink(path), facts.st_mtime_ns)
            elif path.is_dir():
                found[key] = ("dir", facts.st_mtime_ns)
            else:
                data = hashlib.sha256(path.read_bytes()).hexdigest()
                found[key] = ("file", data, bool(facts.st_mode & 0o111), facts.st_mtime_ns)
    return found


def test_a_tree_comes_back_as_it_went_in(node, tmp_path):
    source = node.cluster.tree(
        "tree",
        {
            "empty": b"",
            "empty dir/": b"",
            "a/b/c/leaf": b"x" * 16384,
            "a/b/c/leaf and one": b"y" * 16385,
            "big": random.Random(1).randbytes(3_000_001),
            "tool": b"#!/bin/sh\necho hello from a set\n",
            "ünïcödé/名前/\N{PILE OF POO}": b"names",
            "e\u0301 and \u00e9": b"not normalised",
            "n" * 255: b"long",
            "\u00e9" * 127: b"long in bytes",
            " leading and trailing ": b"space",
            "-rf": b"dash",
            "a'\"$(echo b)\\": b"quotes",
            ".hidden/.file": b"dot",
        },
    )
    (source / "tool").chmod(0o755)
    (source / "a/up").symlink_to("../tool")
    (source / "a/dir").symlink_to("b/c")
    (source / "dangling").symlink_to("not/there")
    for number, path in enumerate(sorted(source.rglob("*"), reverse=True)):
        os.utime(path, ns=(0, 1_000_000_000_123_456_789 - number * 987_654_321), follow_symlinks=False)
    made = node.cli("create", "tree", source).json()
    files = [path for path in source.rglob("*") if path.is_file() and not path.is_symlink()]
    assert (made["files"], made["bytes"]) == (len(files), sum(path.stat().st_size for path in files))
    assert made["state"] == "COMMITTED"
    node.cli("get", "tree", tmp_path / "back")
    assert told(tmp_path / "back") == told(source)
    listed = {item["path"]: item for item in node.cli("files", "tree").items()}
    assert set(listed) == set(told(source))
    assert listed["tool"]["executable"]
    assert listed["a/up"]["target"] == "../tool"
    script = '"$1"/tool && cat "$1"/a/dir/leaf | wc -c && cd "$1" && cat "\u00fcn\u00efc\u00f6d\u00e9/名前/\N{PILE OF POO}"'
    ran = node.cli("exec", "tree", "--", "sh", "-c", script, "sh", "{tree}")
    assert ran.stdout == "hello from a set\n16384\nnames"


def test_a_very_deep_tree_is_taken_and_one_beyond_the_longest_path_is_named(node, tmp_path):
    deep = node.cluster.root / "deep"
    deep.mkdir()
    folder = os.open(deep, os.O_RDONLY)
    path = []
    for number in range(480):  # below PATH_MAX inside the set, far above it with the directories around it
        name = f"d{number:07d}"[:7]
        os.mkdir(name, dir_fd=folder)
        below = os.open(name, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
        path.append(name)
    os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    made = node.cli("create", "deep", deep).json()
    assert made["files"] == 1
    assert node.cli("files", "deep").items()[-1]["path"] == "/".join([*path, "leaf"])
    node.cli("get", "deep", tmp_path / "deep")
    found = subprocess.run(
        ["find", str(tmp_path / "deep"), "-type", "f"], check=True, capture_output=True, text=True
    ).stdout
    assert found.strip().endswith("/leaf")
    assert len(found.strip().split("/")) == 481 + len(str(tmp_path / "deep").split("/"))
    subprocess.run(["rm", "-rf", str(tmp_path / "deep")], check=True)
    top = node.cluster.root / "deeper"
    top.mkdir()
    deep.rename(top / ("x" * 255))
    refused = node.cli("create", "deeper", top, check=False)
    assert refused.returncode == 2
    assert refused.error["code"] == "bad_name"
    node.cli("delete", "deep")


def test_several_paths_keep_their_base_names(node):
    source = node.cluster.tree("several", {"one/f": "1", "two/f": "2", "three": "3"})
    node.cli("create", "several", source / "one", source / "two", source / "three")
    listed = [(item["path"], item["kind"]) for item in node.cli("files", "several").items()]
    assert listed == [("one", "dir"), ("one/f", "file"), ("three", "file"), ("two", "dir"), ("two/f", "file")]
    node.cli("create", "single", source / "three")
    assert [item["path"] for item in node.cli("files", "single").items()] == ["three"]
    twice = node.cli("create", "twice", source / "one", source / "several" / ".." / "one", check=False)
    assert twice.returncode in (2, 3)
    assert node.cli("create", "nothing", source / "missing", check=False).returncode == 3


def test_an_empty_directory_and_an_empty_file_are_sets_too(node, tmp_path):
    empty = node.cluster.tree("nothing", {})
    assert node.cli("create", "no-entries", empty).json()["files"] == 0
    assert node.cli("files", "no-entries").items() == []
    node.cli("get", "no-entries", tmp_path / "none")
    assert list((tmp_path / "none").iterdir()) == []
    one = node.cluster.tree("nil", {"nil": b""})
    assert node.cli("create", "no-bytes", one).json()["bytes"] == 0
    assert node.cli("cat", "no-bytes/nil").stdout == ""


def test_twenty_thousand_small_files(node, tmp_path):
    source = node.cluster.root / "many"
    for number in range(20_000):
        if number % 200 == 0:
            (source / f"{number // 200:03}").mkdir(parents=True)
        (source / f"{number // 200:03}" / f"{number:06}").write_bytes(b"%d" % number * (number % 50))
    made = node.cli("create", "many", source).json()
    assert made["files"] == 20_000
    ran = node.cli(
        "exec", "many", "--", "sh", "-c", "find {many}/ -type f | wc -l; cat {many}/099/019999 | head -c 5"
    )
    assert ran.stdout.split() == ["20000", "19999"]
    assert len(node.cli("files", "many").items()) == 20_100
    node.cli("delete", "many")


def test_a_file_of_more_than_four_gib(cluster):
    node = cluster.start("a", store_capacity="6GB")
    source = cluster.root / "huge"
    source.mkdir()
    size = (4 << 30) + 12_345
    with (source / "sparse").open("wb") as file:
        file.truncate(size)
        for place, mark in ((0, b"first"), (2**32 - 2, b"across"), (size - 4, b"last")):
            file.seek(place)
            file.write(mark)
    made = node.cli("create", "huge", source, timeout=800).json()
    assert made["bytes"] == size
    opened = node.client().open("huge/sparse")
    with opened as file:
        for place, mark in ((0, b"first"), (2**32 - 2, b"across"), (size - 4, b"last")):
            assert os.pread(file.fileno(), len(mark), place) == mark
    part = node.http(
        "GET", "/v1/sets/huge/content/sparse", headers={"Range": f"bytes={2**32 - 2}-{2**32 + 3}"}
    )
    assert (part.status, part.body) == (206, b"across")


def test_the_same_again_is_success_and_changes_nothing(node):
    source = node.cluster.tree("same", {"x": "same"})
    first = node.cli(
        "create", "same", source, "--share", "public", "--requirements", "TARGET.Memory > 1"
    ).json()
    again = node.cli(
        "create", "same", source, "--share", "public", "--requirements", "TARGET.Memory > 1"
    ).json()
    assert (again["id"], again["revision"], again["content"]) == (
        first["id"],
        first["revision"],
        first["content"],
    )
    assert node.cli("create", "same", source).json()["revision"] == first["revision"]
    other = node.cli("create", "same", source, "--share", "private", check=False)
    assert (other.returncode, other.error["code"]) == (5, "name_taken")
    (source / "x").write_text("diff")
    other = node.cli(
        "create", "same", source, "--share", "public", "--requirements", "TARGET.Memory > 1", check=False
    )
    assert (other.returncode, other.error["code"]) == (5, "name_taken")
    assert node.show("same")["id"] == first["id"]


def test_another_name_for_the_same_bytes_takes_them_once(node):
    source = node.cluster.tree("once", {"x": os.urandom(1_000_000)})
    before = node.status()["tiers"]["disk"]["committed_bytes"]
    first = node.cli("create", "once-1", source).json()
    one = node.status()["tiers"]["disk"]["committed_bytes"]
    second = node.cli("create", "once-2", source).json()
    assert second["content"] == first["content"]
    assert second["id"] != first["id"]
    assert node.status()["tiers"]["disk"]["committed_bytes"] == one > before
    node.cli("delete", "once-1")
    assert node.cli("cat", "once-2/x", text=False).stdout == (source / "x").read_bytes()
    node.cli("delete", "once-2")
    node.cluster.wait_for(
        lambda: node.status()["tiers"]["disk"]["committed_bytes"] == before, what="the space to return"
    )


def test_replace_moves_the_name_while_a_job_reads_on(node):
    source = node.cluster.tree("versions", {"v": "1"})
    old = node.cli("create", "versions", source).json()
    job = node.spawn("exec", "versions", "--", "sh", "-c", "cat versions/v; read go; cat versions/v")
    assert job.stdout.read(1) == "1"
    (source / "v").write_text("2")
    new = node.cli("create", "versions", source, "--replace").json()
    assert new["id"] != old["id"]
    assert node.cli("cat", "versions/v").stdout == "2"
    assert node.show(f"id:{old['id']}")["state"] == "WITHDRAWN"
    assert job.communicate("go\n", timeout=120)[0] == "1"
    assert node.cli("create", "versions", source, "--replace").json()["id"] == new["id"]


def test_two_at_once_under_one_name_make_one_set(node):
    sources = [node.cluster.tree(f"race{number}", {"x": f"{number}" * 100_000}) for number in range(4)]
    results = []

    def create(source: Path) -> None:
        results.append(node.cli("create", "race", source, check=False))

    threads = [threading.Thread(target=create, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.returncode for result in results) == [0, 5, 5, 5]
    assert {result.error["code"] for result in results if result.returncode} == {"name_taken"}
    won = next(result for result in results if result.returncode == 0).json()
    assert node.show("race")["id"] == won["id"]
    threads = [threading.Thread(target=create, args=(sources[0],)) for _ in range(3)]
    results.clear()
    node.cli("delete", "race", "--everywhere")
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.returncode for result in results] == [0, 0, 0], results
    assert len({result.json()["id"] for result in results}) == 1
