"""Which objects make which files."""

from __future__ import annotations

import pytest
from cached.errors import BadName
from cached.origin import naming
from cached.origin.rights import may_name
from cached.origin.values import Pinned
from hypothesis import given
from hypothesis import strategies as st


def listed(*names, base="p/"):
    return [Pinned("b", base + name, 7, 0 if (base + name).endswith("/") else 3, 1) for name in names]


def test_the_rest_of_a_name_is_the_path_and_a_marker_is_an_empty_directory():
    plan = naming.below(listed("", "a", "d/e", "empty/", ".cached/set", ".cached/leaves"), "b", "p/")
    assert sorted(plan.files) == ["a", "d/e"]
    assert plan.directories == ("empty",)
    assert plan.total_bytes == 6
    assert plan.files["d/e"].name == "p/d/e"


@pytest.mark.parametrize(
    "names",
    [
        ("../x",),
        ("a//b",),
        ("a\nb",),
        ("./a",),
        ("a", "a/b"),
        ("a", "a/"),
        ("a/b/c", "a/b"),
        ("/a",),
        ("x" * 300,),
    ],
)
def test_an_object_that_cannot_be_a_file_is_refused_by_its_name(names):
    with pytest.raises(BadName) as refused:
        naming.below(listed(*names), "b", "p/")
    assert "gs://b/p/" in refused.value.message


def test_a_directory_marker_with_bytes_is_refused():
    with pytest.raises(BadName, match="has bytes"):
        naming.below([Pinned("b", "p/d/", 1, 5, 1)], "b", "p/")


def test_a_single_object_keeps_the_last_part_of_its_name():
    plan = naming.single(Pinned("b", "deep/down/file.txt", 1, 5, 1))
    assert (plan.base, list(plan.files)) == ("deep/down/", ["file.txt"])
    assert naming.single(Pinned("b", "top", 1, 5, 1)).base == ""
    with pytest.raises(BadName):
        naming.single(Pinned("b", "deep/..", 1, 5, 1))


def test_a_prefix_is_a_directory_with_or_without_its_slash():
    assert naming.directory("a/b") == naming.directory("a/b/") == "a/b/"
    assert naming.directory("") == ""


@given(st.lists(st.text(alphabet="ab/.", min_size=1, max_size=6), unique=True))
def test_what_is_accepted_has_one_path_for_each_name_and_no_file_above_another(names):
    try:
        plan = naming.below(listed(*names), "b", "p/")
    except BadName:
        return
    assert all(plan.base + path == pinned.name for path, pinned in plan.files.items())
    parents = {
        path[:at] for path in (*plan.files, *plan.directories) for at, mark in enumerate(path) if mark == "/"
    }
    assert not parents & plan.files.keys()
    assert len(plan.files) + len(plan.directories) == len(names)


def test_who_may_name_a_bucket():
    assert may_name(["*"], "anybody", [])
    assert may_name(["ada"], "ada", [])
    assert not may_name(["ada"], "bob", ["ada"])
    assert may_name(["group:lab"], "bob", ["lab"])
    assert not may_name(["group:lab"], "lab", ["users"])
    assert not may_name([], "root", ["root"])
    assert may_name(["ada"], "ada@site", [], domain="site")
    assert not may_name(["ada"], "ada@elsewhere", [], domain="site")
    assert may_name(["ada@elsewhere"], "ada@elsewhere", [], domain="site")
