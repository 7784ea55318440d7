from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from cached.errors import BadName, UnsupportedFile
from cached.sets.paths import MAX_PATH, check_link, check_links, check_path, check_paths, follow
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize(
    "path",
    [
        "a",
        "a/b",
        " ",
        "a b",
        "...",
        ".hidden",
        "-",
        "é",
        "e\u0301",
        "日本/語",
        "a" * 255,
        "é" * 127,
        "\u202e",
        "\\",
        "a:b",
    ],
)
def test_any_visible_utf8_name_passes(path):
    check_path(path)


PIECES = st.sampled_from(["a", "é", "..", ".", "/", "\n", "\x00", "\x85", "\udc80", "x" * 200, " "])
PATHS = st.lists(st.lists(PIECES, max_size=4).map("".join), max_size=4)


@given(PATHS)
@settings(max_examples=500)
def test_many_paths_together_are_refused_as_each_of_them_is(paths):
    def refused(check, what):
        try:
            check(what)
        except BadName as error:
            return error.message
        return None

    assert refused(check_paths, paths) == next(
        filter(None, (refused(check_path, one) for one in paths)), None
    )


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/./b",
        "a/../b",
        "../a",
        "a/..",
        "a\x00b",
        "a\nb",
        "a\x7f",
        "\x1b[2J",
        "a\x85b",
        "\udc80",
        "a" * 256,
        "é" * 128,
        "x/" + "a" * 256,
        "/".join(["a" * 200] * 21),
    ],
)
def test_what_could_mislead_or_escape_is_refused(path):
    with pytest.raises(BadName):
        check_path(path)


def test_a_hundred_levels_and_the_longest_path_pass():
    check_path("/".join(["d"] * 100))
    check_path("/".join(["a" * 255] * 16)[:MAX_PATH])


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("l", "a"),
        ("d/l", "../a"),
        ("l", "."),
        ("d/e/l", "../../x/../y"),
        ("l", "missing"),
        ("l", "a//b/"),
        ("d/l", ".."),
    ],
)
def test_links_that_stay_inside_pass(path, target):
    check_link(path, target)


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("l", "/etc/passwd"),
        ("l", ".."),
        ("l", "../x"),
        ("d/l", "../../x"),
        ("l", "a/../../x"),
        ("l", ""),
        ("l", "a\nb"),
        ("l", "\udc80"),
        ("l", "a/" * 2048),
    ],
)
def test_links_that_leave_or_hide_something_are_refused_by_name(path, target):
    with pytest.raises(UnsupportedFile, match=f"'{path}'"):
        check_link(path, target)


def test_a_link_that_gets_out_by_way_of_another_is_refused():
    check_links({"d/up": ".."})
    with pytest.raises(UnsupportedFile, match="'sly'"):
        check_links({"d/up": "..", "sly": "d/up/../secret"})


def test_dangling_and_circular_links_may_be_stored():
    check_links({"a": "b", "b": "a", "c": "c", "d": "nowhere/at/all"})


def test_links_made_to_waste_time_are_refused_soon():
    hostile = {f"l{at}": f"l{at + 1}" + "/d" * 800 + "/.." * 800 for at in range(39)}
    with pytest.raises(UnsupportedFile):
        check_links(hostile)


def test_a_link_into_its_own_circle_may_be_stored():
    check_links({"d/c": "c/../../x"})


def test_links_are_followed_to_what_they_mean():
    links = {"latest": "v2", "v2/cur": "../v1/data", "v1/data": "files"}
    assert follow(links, "latest/cur/x") == "v1/files/x"
    assert follow(links, "latest") == "v2"
    assert follow(links, "plain/file") == "plain/file"
    assert follow({"l": "."}, "l") == ""


ELEMENTS = st.sampled_from(["..", "a", "b", "l", "m", "."])


@given(
    st.dictionaries(
        st.sampled_from(["l", "a/l", "a/m", "a/b/m", "m"]), st.lists(ELEMENTS, min_size=1, max_size=5)
    )
)
@settings(max_examples=60, deadline=None)
def test_what_passes_never_resolves_outside_on_a_real_file_system(links):
    chosen = {path: "/".join(target) for path, target in links.items()}
    try:
        check_links(chosen)
    except UnsupportedFile:
        return
    with tempfile.TemporaryDirectory() as outer:
        root = Path(outer, "guard", "root")
        (root / "a" / "b").mkdir(parents=True)
        for path, target in chosen.items():
            os.symlink(target, root / path)
        for path in chosen:
            try:
                real = (root / path).resolve(strict=True)
            except (OSError, RuntimeError):
                continue
            assert real.is_relative_to(root)
            found = follow(chosen, path)
            assert found is not None
            assert (root / found).resolve() == real
