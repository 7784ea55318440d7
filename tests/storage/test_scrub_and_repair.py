from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cached import faults
from cached.errors import Busy, IntegrityFailed, NotFound
from cached.storage import repair, scrub
from cached.storage.disk import Store

TREE = {"a": b"alpha" * 9000, "d/b": b"beta", "d/e/c": b"", "bin/x": b"x", "l": "a", "void": None}


def spoil(store: Store, content: str, path: str, data: bytes) -> None:
    target = store.data(content) / path
    mode = stat.S_IMODE(target.stat().st_mode)
    target.chmod(0o600)
    target.write_bytes(data)
    target.chmod(mode)


def kinds(store: Store, content: str) -> set[tuple[str, str]]:
    return {(damage.path, damage.kind) for damage in scrub.verify(store, content)}


def test_a_whole_content_has_no_damage_and_all_its_bytes_are_read(store, ingested):
    content = ingested(store, TREE)
    seen = []
    assert scrub.verify(store, content, progress=seen.append, fresh=True) == []
    assert sum(seen) == 45_005


@pytest.mark.parametrize("at", [0, 16_383, 16_384, 44_999])
def test_every_flipped_bit_is_found(store, ingested, at):
    content = ingested(store, TREE)
    data = bytearray(TREE["a"])
    data[at] ^= 1
    spoil(store, content, "a", bytes(data))
    assert kinds(store, content) == {("a", "bytes")}


def test_each_kind_of_damage_is_named_and_what_needs_no_bytes_is_mended(store, ingested):
    content = ingested(store, TREE)
    data = store.data(content)
    for folder in (data, data / "d", data / "d/e", data / "bin"):
        folder.chmod(0o755)
    (data / "bin/x").chmod(0o644)
    (data / "d/e/c").unlink()
    (data / "d/e").rmdir()
    (data / "l").unlink()
    (data / "l").symlink_to("d")
    (data / "void").rmdir()
    (data / "void").write_bytes(b"now a file")
    (data / "odd").mkdir()
    (data / "odd/er").write_bytes(b"1")
    (store.home(content) / "leaves").write_bytes(b"no")
    spoil(store, content, "d/b", b"bet")
    found = scrub.verify(store, content)
    assert {(damage.path, damage.kind) for damage in found} == {
        ("", "mode"), ("d", "mode"), ("bin", "mode"), ("bin/x", "mode"), ("d/e", "missing"),
        ("d/e/c", "missing"), ("l", "link"),
        ("void", "missing"), ("odd", "stray"), ("odd/er", "stray"), ("d/b", "size"), ("", "leaves"),
    }  # fmt: skip
    left = repair.mend(store, content, found)
    assert {(damage.path, damage.kind) for damage in left} == {("d/b", "size"), ("", "leaves")}
    assert kinds(store, content) == {("d/b", "size"), ("", "leaves")}
    staged = store.root / "incoming/fix"
    staged.write_bytes(b"beta")
    repair.replace_file(store, content, "d/b", staged)
    assert repair.mend(store, content, scrub.verify(store, content)) == []
    assert scrub.verify(store, content) == []
    assert (data / "d/b").stat().st_mtime_ns == 3_000_000_000


def test_a_rotten_manifest_is_the_only_damage_named_and_is_not_mended(store, ingested):
    content = ingested(store, TREE)
    (store.home(content) / "manifest").write_bytes(b"cached-manifest 1\n")
    (damage,) = scrub.verify(store, content)
    assert damage.kind == "manifest"
    assert repair.mend(store, content, [damage]) == [damage]


def test_a_replacement_that_is_not_the_manifests_file_is_refused(store, ingested):
    content = ingested(store, TREE)
    staged = store.root / "incoming/fix"
    for wrong in (b"BETA", b"betas", b""):
        staged.write_bytes(wrong)
        with pytest.raises(IntegrityFailed):
            repair.replace_file(store, content, "d/b", staged)
    with pytest.raises(NotFound):
        repair.replace_file(store, content, "d", staged)
    assert scrub.verify(store, content) == []


def test_readers_keep_the_file_they_have_open_while_it_is_replaced(store, ingested):
    content = ingested(store, TREE)
    spoil(store, content, "d/b", b"rot!")
    reader = (store.data(content) / "d/b").open("rb")
    staged = store.root / "incoming/fix"
    staged.write_bytes(b"beta")
    faults.arm("repair.renamed:error")
    with pytest.raises(Exception, match="d/b"):
        repair.replace_file(store, content, "d/b", staged)
    assert scrub.verify(store, content) == []
    assert reader.read() == b"rot!"
    reader.close()


def test_a_file_takes_the_place_of_a_directory_or_link_that_stands_there(store, ingested):
    content = ingested(store, TREE)
    data = store.data(content)
    data.chmod(0o755)
    (data / "a").unlink()
    (data / "a").mkdir()
    staged = store.root / "incoming/fix"
    staged.write_bytes(TREE["a"])
    repair.replace_file(store, content, "a", staged)
    assert scrub.verify(store, content) == []


def test_reading_keeps_to_the_rate():
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    pace = scrub.Pace(1000, clock=lambda: now[0], sleep=sleep)
    for _ in range(100):
        pace.spend(100)
    assert now[0] == pytest.approx(10.0)
    now[0] += 60
    start = now[0]
    for _ in range(100):
        pace.spend(100)
    assert now[0] - start == pytest.approx(9.0)


def test_a_scrub_can_be_stopped(store, ingested):
    content = ingested(store, TREE)

    def stop(_: int) -> None:
        raise Busy("stopping")

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Busy):
        scrub.verify(store, content, progress=stop)
    assert len(os.listdir("/proc/self/fd")) == before


def test_scrub_changes_nothing(store, ingested):
    content = ingested(store, TREE)
    spoil(store, content, "a", b"?")
    before = sorted(
        (str(path), path.lstat().st_mtime_ns, path.lstat().st_ino) for path in Path(store.root).rglob("*")
    )
    scrub.verify(store, content)
    assert before == sorted(
        (str(path), path.lstat().st_mtime_ns, path.lstat().st_ino) for path in Path(store.root).rglob("*")
    )
