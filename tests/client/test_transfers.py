"""What is moved where: wildcards, directories, names that may not become files."""

from __future__ import annotations

import fnmatch
import json
import os.path
import re

import pytest
from cached.addresses import parse
from cached.client.tally import Tally
from cached.client.transfers import (
    Copy,
    Found,
    Pattern,
    Transfer,
    check_distinct,
    inputs,
    local_name,
    outputs,
    read,
    source_objects,
)
from cached.errors import BadName, CachedError, UsageError
from hypothesis import given
from hypothesis import strategies as st


def transfer(source: str, to: str, *, cache: bool = True) -> Transfer:
    return read(json.dumps([{"from": source, "to": to, "cache": cache}]).encode())[0]


def brought(source: str, to: str, *names: str, directory: bool = False) -> dict[str, str]:
    found = [Found(name, int(not name.endswith("/")), 7) for name in names]
    made = list(inputs(transfer(source, to), found, to_is_directory=directory))
    assert all(isinstance(each, Copy) for each in made), made
    return {each.source: each.to for each in made}


def sent(source: str, to: str, *names: str) -> dict[str, str]:
    found = [Found(name, 1) for name in names]
    made = list(outputs(transfer(source, to), Pattern(source), found))
    assert all(isinstance(each, Copy) for each in made), made
    return {each.source: each.to for each in made}


@pytest.mark.parametrize(
    ("source", "to", "directory", "where"),
    [
        ("gs://bkt/in/a.bam", "/w/x", False, "/w/x"),
        ("gs://bkt/in/a.bam", "/w/", False, "/w/a.bam"),
        ("gs://bkt/in/a.bam", "/w", True, "/w/a.bam"),
        ("gs://bkt/in/a.bam#12", "/w", True, "/w/a.bam"),
    ],
)
def test_one_object_becomes_the_file_named_or_a_file_in_the_directory_named(source, to, directory, where):
    assert brought(source, to, directory=directory) == {source: where}


def test_a_directory_comes_with_everything_below_it_under_relative_names():
    assert brought("gs://bkt/in/", "/w", "in/a", "in/b/c", "in/", "in/empty/", "other") == {
        "gs://bkt/in/a": "/w/a",
        "gs://bkt/in/b/c": "/w/b/c",
    }
    assert brought("gs://bkt", "w/", "a", "b/c") == {"gs://bkt/a": "w/a", "gs://bkt/b/c": "w/b/c"}


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("in/*.bam", {"a.bam", "b.bam"}),
        ("in/?.bam", {"a.bam", "b.bam"}),
        ("in/**.bam", {"a.bam", "b.bam", "s/c.bam", "s/t/d.bam"}),
        ("in/**/*.bam", {"a.bam", "b.bam", "s/c.bam", "s/t/d.bam"}),
        ("in/*/*.bam", {"s/c.bam"}),
        ("in/**", {"a.bam", "b.bam", "n.txt", "s/c.bam", "s/t/d.bam"}),
        ("in/a.[b]am*", set()),
    ],
)
def test_wildcards_stop_at_slashes_unless_doubled_and_keep_the_names_behind_the_last_slash(pattern, fits):
    names = ["in/a.bam", "in/b.bam", "in/n.txt", "in/s/c.bam", "in/s/t/d.bam", "inn/e.bam"]
    assert set(brought(f"gs://bkt/{pattern}", "/w", *names).values()) == {f"/w/{name}" for name in fits}


def test_outputs_keep_their_relative_names_too():
    assert sent("/o/a", "gs://bkt/x", "/o/a") == {"/o/a": "gs://bkt/x"}
    assert sent("/o/a", "gs://bkt/x/", "/o/a") == {"/o/a": "gs://bkt/x/a"}
    assert sent("/o/a", "gs://bkt", "/o/a") == {"/o/a": "gs://bkt/a"}
    assert sent("/o/", "gs://bkt/x", "/o/a", "/o/b/c") == {
        "/o/a": "gs://bkt/x/a",
        "/o/b/c": "gs://bkt/x/b/c",
    }
    assert sent("/o/*.txt", "gs://bkt/x/", "/o/a.txt", "/o/b.bin") == {"/o/a.txt": "gs://bkt/x/a.txt"}


@pytest.mark.parametrize(
    "name", ["../etc/passwd", "a/../../b", "/abs", "a//b", ".", "a/./b", "a/", "x\x1b[2J", "x\x7f", "é" * 200]
)
def test_a_name_that_would_leave_the_directory_or_the_terminal_is_refused_by_name(name):
    made = list(
        inputs(
            transfer("gs://bkt/in/", "/w"), [Found(f"in/{name}", 5), Found("in/ok", 1)], to_is_directory=True
        )
    )
    assert isinstance(made[0], BadName)
    assert repr(f"gs://bkt/in/{name}")[1:-1] in made[0].message
    assert isinstance(made[1], Copy)


def test_the_last_part_of_a_single_object_is_refused_in_the_same_way():
    (made,) = inputs(transfer("gs://bkt/a/..", "/w/"), [], to_is_directory=False)
    assert isinstance(made, BadName)


def test_an_object_whose_name_ends_like_a_generation_is_meant_by_its_own():
    assert brought("gs://bkt/in/", "/w", "in/a#5") == {"gs://bkt/in/a#5#7": "/w/a#5"}
    (made,) = outputs(transfer("/o/", "gs://bkt"), Pattern("/o/"), [Found("/o/a#5", 1)])
    assert isinstance(made, UsageError)


@pytest.mark.parametrize(
    "copies",
    [
        [("gs://bkt/a/x", "/w/x"), ("gs://bkt/b/x", "/w/x")],
        [("gs://bkt/a/x", "/w/x"), ("gs://bkt/b/x", "/w//x")],
        [("gs://bkt/a/x", "w/x"), ("gs://bkt/b/x", "./w/./x")],
        [("gs://bkt/a", "/w/a"), ("gs://bkt/a/b", "/w/a/b")],
    ],
)
def test_two_that_would_become_one_are_refused_before_anything_moves(copies):
    made = [Copy(kind="in", source=source, to=to) for source, to in copies]
    check_distinct(made[:1])
    with pytest.raises(UsageError, match=r"both become|below the file"):
        check_distinct(made)
    with pytest.raises(UsageError, match=r"both become|below the file"):
        check_distinct(made[::-1])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "3",
        '{"items": 3}',
        '[{"from": "gs://bkt/a"}]',
        '[{"from": "gs://bkt/a", "to": "x", "cached": true}]',
        '[{"from": "gs://bkt/a", "to": ""}]',
        '[{"from": "gs://bkt/a", "to": "x\\u0000y"}]',
        '[{"from": "gs://bkt/a", "to": "gs://bkt/b"}]',
        '[{"from": "/a", "to": "/b"}]',
        '[{"from": "./a", "to": "b"}]',
        '[{"from": "/a", "to": "gs://bkt/*"}]',
        '[{"from": "gs://B/a", "to": "x"}]',
        "[" * 100_000,
        '[{"from": "a\\ud800", "to": "x"}]',
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(text):
    with pytest.raises(UsageError):
        read(text.encode())


def test_a_list_may_stand_bare_or_under_items():
    entry = {"from": "gs://bkt/a", "to": "x", "cache": False}
    assert read(json.dumps([entry]).encode()) == read(json.dumps({"items": [entry]}).encode())
    assert [each.kind for each in (transfer("nr/a", "x"), transfer("a", "gs://bkt/b"))] == ["set", "out"]
    assert transfer("ada:nr@node1", "x").kind == "set"


names = st.text(st.sampled_from("ab.*?/#1\n\0é"), max_size=12)


@given(names, st.lists(names, max_size=8), st.sampled_from(["/w", "w/", "./w/x"]))
def test_nothing_ever_arrives_outside_of_the_directory_and_every_address_means_its_object(name, found, to):
    try:
        wish = transfer(f"gs://bkt/{name}", to)
    except UsageError:
        return
    _, pattern = source_objects(wish)
    try:
        made = list(inputs(wish, [Found(each, 1, 7) for each in found], to_is_directory=True))
    except UsageError:
        assert not pattern.many
        return
    for each in made:
        assert isinstance(each, CachedError | Copy)
        if isinstance(each, Copy):
            inside = os.path.normpath(each.to)
            assert inside.startswith(os.path.normpath(to) + "/")
            assert not set("\n\0") & set(each.to)
            if pattern.many:
                assert parse(each.source).name in found


plain_names = st.text(st.sampled_from("abc./"), min_size=1, max_size=8)


@given(st.text(st.sampled_from("abc.*?"), min_size=1, max_size=6), plain_names)
def test_single_stars_fit_what_the_shell_says_they_fit(glob, name):
    text = re.sub(r"\*+", "*", glob)
    expected = fnmatch.fnmatchcase(name, text) if "/" not in name else False
    assert (Pattern(text).relative(name) is not None) == expected


@given(st.lists(plain_names, min_size=1, unique=True), st.text(st.sampled_from("abc./*?"), max_size=6))
def test_what_is_listed_by_the_prefix_holds_all_that_fits(found, text):
    pattern = Pattern(text)
    for name in found:
        relative = pattern.relative(name)
        if relative is not None:
            assert name.startswith(pattern.prefix)
            assert name.endswith(relative)
            if pattern.depth is not None:
                assert relative.count("/") < pattern.depth
            assert pattern.base + relative == name


@given(plain_names)
def test_a_local_name_is_its_own_normal_form(name):
    try:
        assert os.path.normpath(local_name(name, name)) == name
    except BadName:
        assert os.path.normpath(name) != name or name.startswith((".", "/"))


def test_the_summary_is_one_line_of_sizes_places_and_the_hit_rate():
    tally = Tally()
    for size, place in ((40, "memory"), (10, "disk"), (20, "peer"), (30, "origin")):
        tally.brought(1, size << 20, place)
    tally.sent(3 << 20)
    assert tally.line() == (
        "in 4 files 100.0 MiB (memory 40 %, disk 10 %, peer 20 %, origin 30 %), out 1 file 3.0 MiB, hit rate 70 %"
    )
    assert tally.facts()["bytes_by_place"]["origin"] == 30 << 20
    assert tally.facts()["hit_rate"] == pytest.approx(0.7)


def test_a_set_that_had_to_come_from_other_nodes_is_no_hit():
    tally = Tally()
    tally.brought(5, 75, "here", what="set")
    tally.brought(5, 25, "peer", what="set")
    assert tally.line() == "in 10 files 100 B (here 75 %, peer 25 %), out 0 files 0 B, hit rate 75 %"


def test_where_nothing_was_read_there_is_no_rate():
    assert Tally().line() == "in 0 files 0 B, out 0 files 0 B"
    assert Tally().facts()["hit_rate"] is None
