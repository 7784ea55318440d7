"""`exec`'s pure rules: names, variables, braces, and what may stand where a link is wanted."""

from __future__ import annotations

import pytest
from cached.errors import UsageError
from hypothesis import given
from hypothesis import strategies as st

from cached_cli.links import judge
from cached_cli.substitution import environment, parse_all, parse_wanted, spellings, substitute


@pytest.mark.parametrize(
    ("text", "ref", "name", "link", "variable"),
    [
        ("nr", "nr", "nr", "nr", "CACHED_NR"),
        ("nr=db", "nr", "nr", "db", "CACHED_NR"),
        ("bob:nr-2.5@n1=db", "bob:nr-2.5@n1", "nr-2.5", "db", "CACHED_NR_2_5"),
        ("bob@site:nr", "bob@site:nr", "nr", "nr", "CACHED_NR"),
        ("id:0123abcd", "id:0123abcd", "id:0123abcd", "0123abcd", "CACHED_ID_0123ABCD"),
        ("id:0123abcd@n1/x", "id:0123abcd@n1/x", "id:0123abcd", "x", "CACHED_ID_0123ABCD"),
        ("nr/sub/dir", "nr/sub/dir", "nr", "dir", "CACHED_NR"),
        ("nr/sub/=x", "nr/sub/", "nr", "x", "CACHED_NR"),
    ],
)
def test_a_name_gives_its_variable_and_its_link(text, ref, name, link, variable):
    wanted = parse_wanted(text)
    assert (wanted.ref, wanted.name, wanted.link, wanted.variable) == (ref, name, link, variable)


@pytest.mark.parametrize(
    ("text", "link"),
    [
        ("id:0123abcd", "nr"),
        ("id:0123abcd=db", "db"),
        ("id:0123abcd=0123abcd", "0123abcd"),
        ("id:0123abcd/x", "x"),
    ],
)
def test_a_set_given_by_its_id_goes_by_its_name(text, link):
    given = parse_wanted(text)
    assert given.by_id
    wanted = given.called("nr")
    assert (wanted.ref, wanted.link, wanted.variable) == (given.ref, link, "CACHED_NR")
    assert substitute(["{nr} {id:0123abcd}"], spellings([wanted], {"nr": "/p"})) == ["/p /p"]
    assert not parse_wanted("nr").by_id


@pytest.mark.parametrize("text", ["", "=x", "nr=", "nr=a/b", "nr=..", "nr=.", "nr=a\nb", "bob:"])
def test_a_name_or_link_that_cannot_be_is_a_usage_error(text):
    with pytest.raises(UsageError):
        parse_wanted(text)


def test_two_sets_never_share_a_variable_or_a_link():
    with pytest.raises(UsageError, match="CACHED_A_B"):
        parse_all(["a-b", "a.b"])
    with pytest.raises(UsageError, match="link x"):
        parse_all(["a=x", "b=x"])
    assert [wanted.link for wanted in parse_all(["a", "b=x"])] == ["a", "x"]


def test_only_given_names_are_replaced_and_doubled_braces_escape():
    paths = {"nr": "/p/1", "nr.v2": "/p/2"}
    arguments = ["-db={nr}/nr", "{nr.v2}{nr}", "{other}", "{{nr}}", "${HOME}", "{}", "{ nr }", "awk '{nr}'"]
    assert substitute(arguments, paths) == [
        "-db=/p/1/nr",
        "/p/2/p/1",
        "{other}",
        "{nr}",
        "${HOME}",
        "{}",
        "{ nr }",
        "awk '/p/1'",
    ]


@given(st.lists(st.text(alphabet="ab{}$ .", max_size=12)), st.sampled_from(["xyz", "x.y", "id:12"]))
def test_arguments_without_the_name_are_left_as_they_are(arguments, name):
    assert substitute(arguments, {name: "/somewhere"}) == arguments


@given(st.text(max_size=20), st.text(max_size=20))
def test_what_is_replaced_is_not_looked_at_again(before, after):
    found = substitute([f"{before}|{{nr}}|{after}"], {"nr": "/{nr}"})[0]
    assert "|/{nr}|" in found


def test_every_set_has_its_variable_and_the_rest_of_the_environment_stays():
    wanted = parse_all(["nr", "ref-38=x"])
    found = environment({"HOME": "/h"}, wanted, {"nr": "/1", "ref-38": "/2"})
    assert found == {"HOME": "/h", "CACHED_NR": "/1", "CACHED_REF_38": "/2"}


@pytest.mark.parametrize(
    ("existing", "alive", "ours", "verdict"),
    [
        ("/proc/77/fd/5", False, True, "replace"),
        ("/proc/77/fd/5/sub", False, True, "replace"),
        ("/tmp/cached-view-abc/nr", False, True, "replace"),
        ("/proc/77/fd/5", True, True, "leave"),
        ("/proc/77/fd/5", False, False, "leave"),
        ("/data/nr", False, True, "replace"),
        ("/data/nr", True, True, "leave"),
        ("/data/nr", False, False, "leave"),
        ("/data/nr", None, True, "leave"),
        ("/proc/77/fd/5", None, True, "replace"),
        ("../proc/77/fd/5", None, True, "leave"),
    ],
)
def test_only_a_dead_link_of_ours_is_replaced(existing, alive, ours, verdict):
    assert judge(existing, is_link=True, alive=alive, ours=ours) == verdict


def test_nothing_is_made_over_a_file_and_all_is_made_where_nothing_stands():
    assert judge("", is_link=False, alive=True, ours=True) == "leave"
    assert judge(None, is_link=False, alive=False, ours=False) == "make"
