"""Files that were made whole, with their final mode and time: a publish looks at one of them in each directory."""

from __future__ import annotations

import os
import stat

import pytest
from cached.errors import IntegrityFailed
from cached.storage import publication

TIME = 1_500_000_000_123_456_789


@pytest.fixture
def looks(monkeypatch):
    """The paths of the entries that were looked at."""
    seen = []
    settled = publication._is_settled

    def is_settled(entry, *facts):
        seen.append(entry.path)
        return settled(entry, *facts)

    monkeypatch.setattr(publication, "_is_settled", is_settled)
    return seen


def filled(work, opened, count=3):
    for folder in ("a", "b"):
        for number in range(count):
            path = f"{folder}/{number}"
            data = path.encode()
            work.add_file(path, opened(data, path.replace("/", "-")), len(data), mtime_ns=TIME + number)
    return work.seal()


def published(store, work, manifest, content):
    return store.publish("tx", content, manifest, made=work.staging.made)


def test_of_files_that_were_made_one_in_each_directory_is_looked_at(store, work, opened, looks):
    manifest, content = filled(work, opened)
    assert published(store, work, manifest, content)
    assert sorted(looks) == ["a", "a/0", "b", "b/0"]
    found = (store.data(content) / "b/2").stat()
    assert (found.st_mtime_ns, stat.S_IMODE(found.st_mode)) == (TIME + 2, 0o444)


def test_all_are_looked_at_and_mended_where_the_system_makes_other_modes(store, work, opened, looks):
    manifest, content = filled(work, opened)
    for number in range(3):
        (work.staging.data / f"a/{number}").chmod(0o400)
    assert published(store, work, manifest, content)
    assert {path for path in looks if path.startswith("a/")} == {"a/0", "a/1", "a/2"}
    assert {stat.S_IMODE((store.data(content) / f"a/{number}").stat().st_mode) for number in range(3)} == {
        0o444
    }


def test_what_nobody_has_made_is_looked_at_always(store, work, opened, looks):
    manifest, content = filled(work, opened)
    assert store.publish("tx", content, manifest, made={"a/0", "a/1"})
    assert sorted(looks) == ["a", "a/0", "a/2", "b", "b/0", "b/1", "b/2"]


@pytest.mark.parametrize("instead", ["nothing", "a directory", "a link"])
def test_a_made_file_that_is_not_there_any_more_is_missed(store, work, opened, instead):
    manifest, content = filled(work, opened)
    lost = work.staging.data / "a/2"
    lost.unlink()
    if instead == "a directory":
        lost.mkdir()
    elif instead == "a link":
        lost.symlink_to("0")
    with pytest.raises(IntegrityFailed, match="'a/2'"):
        published(store, work, manifest, content)


def test_strays_go_as_ever(store, work, opened):
    manifest, content = filled(work, opened)
    (work.staging.data / "a/stray").write_bytes(b"?")
    assert published(store, work, manifest, content)
    assert sorted(os.listdir(store.data(content) / "a")) == ["0", "1", "2"]
