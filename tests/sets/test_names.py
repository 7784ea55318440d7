from __future__ import annotations

import pytest
from cached.errors import BadName, UsageError
from cached.sets.names import SetRef, check_owner, check_set_name, check_share, parse_ref
from hypothesis import given
from hypothesis import strategies as st

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True)
OWNERS = st.from_regex(r"[a-z_][a-z0-9_-]{0,20}(@[a-z0-9][a-z0-9.-]{0,20})?", fullmatch=True)
PATHS = st.lists(st.from_regex(r"[A-Za-z0-9 :@äß_-]{1,12}", fullmatch=True), min_size=1, max_size=4).map(
    "/".join
)


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("nr", SetRef(name="nr")),
        ("nr/", SetRef(name="nr")),
        ("nr/nr.00.psq", SetRef(name="nr", path="nr.00.psq")),
        ("alice:nr", SetRef(owner="alice", name="nr")),
        (
            "alice@unl.edu:nr@node-3/a/b c",
            SetRef(owner="alice@unl.edu", name="nr", node="node-3", path="a/b c"),
        ),
        ("nr@node.example.org", SetRef(name="nr", node="node.example.org")),
        ("nr/what:ever@there/x/", SetRef(name="nr", path="what:ever@there/x")),
        ("id:0123abcd", SetRef(id_prefix="0123abcd")),
        ("id:0123ABCD/x", SetRef(id_prefix="0123abcd", path="x")),
        ("id:0123abcdef@n1", SetRef(id_prefix="0123abcdef", node="n1")),
    ],
)
def test_references_are_read(text, ref):
    assert parse_ref(text) == ref


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "/nr",
        ":nr",
        "nr@",
        "nr:",
        "a:b:c d",
        ".nr",
        "-nr",
        "n r",
        "nr\n",
        "é",
        "x" * 129,
        "nr/../x",
        "nr//x",
        "nr/a\x00",
        "nr@n/./x",
        "nr@a@b",
        "id:0123abc",
        "id:xyzxyzxyz",
        "id:" + "0" * 33,
        "gs://bucket/object",
        "al/ice:nr/..",
    ],
)
def test_what_is_no_reference_is_refused(text):
    with pytest.raises(BadName):
        parse_ref(text)


@given(owner=st.none() | OWNERS, name=NAMES, node=st.none() | NAMES, path=st.none() | PATHS)
def test_a_written_reference_reads_back(owner, name, node, path):
    ref = SetRef(owner=owner, name=name, node=node, path=path)
    if owner != "id":
        assert parse_ref(str(ref)) == ref


@given(st.from_regex(r"[0-9a-f]{8,32}", fullmatch=True))
def test_a_written_id_reads_back(prefix):
    assert parse_ref(str(SetRef(id_prefix=prefix))) == SetRef(id_prefix=prefix)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text):
    try:
        ref = parse_ref(text)
    except BadName:
        return
    assert (ref.name is None) != (ref.id_prefix is None)


@pytest.mark.parametrize("owner", ["alice", "_x", "alice@unl.edu", "svc$", "DOM\\alice", "1000"])
def test_user_names_of_real_sites_pass(owner):
    check_owner(owner)


@pytest.mark.parametrize("owner", ["", "a b", "a:b", "a/b", "@x", "a@", "a@b@c", "-a", "a\n", "x" * 256])
def test_what_is_no_user_is_refused(owner):
    with pytest.raises(BadName):
        check_owner(owner)


def test_set_names_end_where_the_contract_says():
    check_set_name("a" * 128)
    with pytest.raises(BadName):
        check_set_name("a" * 129)


@pytest.mark.parametrize(
    "share", ["private", "public", "group:staff", "group:domain-users$", "group:lab@site.example"]
)
def test_the_three_ways_to_share_pass(share):
    check_share(share)


@pytest.mark.parametrize(
    "share",
    [
        "",
        "group:",
        "group",
        "Public",
        "group:a b",
        "public:x",
        "group:a@b@c",
        "group:a@",
        "group:a\nb",
        "group:\u00e9",
    ],
)
def test_other_ways_to_share_are_refused(share):
    with pytest.raises(UsageError):
        check_share(share)
