from __future__ import annotations

import pytest
from cached.errors import BadName, CachedError, IntegrityFailed, UnsupportedFile, UsageError
from cached.sets.manifest import HEADER, Entry, Manifest, content_id, decode, encode
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = bytes(range(32))


def _file(path, size=5, **more):
    return Entry(path=path, kind="file", size=size, root=ROOT if size else b"", **more)


def _dir(path):
    return Entry(path=path, kind="dir")


def _link(path, target):
    return Entry(path=path, kind="link", target=target)


ELEMENT = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/"), min_size=1, max_size=6
)
PATH = st.lists(ELEMENT.filter(lambda name: name not in (".", "..")), min_size=1, max_size=4).map("/".join)
ENTRY = st.one_of(
    st.builds(_file, PATH, st.integers(0, 2**62), executable=st.booleans()),
    st.builds(_dir, PATH),
    st.builds(_link, PATH, ELEMENT.filter(lambda name: name != "..")),
)


@st.composite
def manifests(draw):
    kept = {}
    for entry in draw(st.lists(ENTRY, max_size=12)):
        try:
            Manifest.build([*kept.values(), entry])
        except CachedError:
            continue
        kept[entry.path] = entry
    return Manifest.build(kept.values())


@given(manifests())
@settings(deadline=None)
def test_a_manifest_reads_back_and_is_its_own_canonical_form(manifest):
    written = encode(manifest)
    assert decode(written) == manifest
    assert Manifest.build(reversed(manifest.entries)) == manifest
    paths = [entry.path.encode() for entry in manifest.entries]
    assert paths == sorted(set(paths))


@given(manifests(), st.data())
@settings(deadline=None)
def test_any_changed_byte_is_another_content_or_no_manifest(manifest, data):
    written = bytearray(encode(manifest))
    written[data.draw(st.integers(0, len(written) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert content_id(bytes(written)) != content_id(encode(manifest))
    try:
        changed = decode(bytes(written))
    except IntegrityFailed:
        return
    assert encode(changed) == bytes(written)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_manifest(data):
    for hostile in (data, HEADER + data, HEADER + data + b"\n"):
        try:
            manifest = decode(hostile)
        except IntegrityFailed:
            continue
        assert encode(manifest) == hostile


def test_directories_that_paths_imply_are_added():
    manifest = Manifest.build([_file("a/b/c"), _link("x/l", "../a")])
    assert [(entry.kind, entry.path) for entry in manifest.entries] == [
        ("dir", "a"),
        ("dir", "a/b"),
        ("file", "a/b/c"),
        ("dir", "x"),
        ("link", "x/l"),
    ]


def test_sums_count_files_only():
    manifest = Manifest.build([_file("a", 5), _file("b", 0, executable=True), _dir("d"), _link("l", "a")])
    assert (manifest.total_bytes, manifest.file_count) == (5, 2)
    assert [entry.path for entry in manifest.files()] == ["a", "b"]


def test_the_empty_content_has_a_manifest():
    assert encode(Manifest.build([])) == HEADER
    assert decode(HEADER) == Manifest(entries=())


@pytest.mark.parametrize(
    "entries",
    [
        [_file("a"), _file("a")],
        [_file("a"), _dir("a")],
        [_file("a"), _file("a/b")],
        [_link("a", "b"), _file("a/b")],
        [_file("../a")],
        [_file("a\nd b")],
        [_file("/a")],
    ],
)
def test_paths_that_contradict_each_other_or_escape_are_refused(entries):
    with pytest.raises(BadName):
        Manifest.build(entries)


@pytest.mark.parametrize(
    "entries", [[_link("l", "/x")], [_link("l", "..")], [_link("d/u", ".."), _link("s", "d/u/../x")]]
)
def test_links_that_lead_outside_are_refused(entries):
    with pytest.raises(UnsupportedFile):
        Manifest.build(entries)


@pytest.mark.parametrize(
    "entry",
    [
        Entry(path="a", kind="file", size=-1),
        Entry(path="a", kind="file", size=2**63, root=ROOT),
        Entry(path="a", kind="file", size=1),
        Entry(path="a", kind="file", size=1, root=ROOT[:31]),
        Entry(path="a", kind="file", root=ROOT),
        Entry(path="a", kind="file", target="b"),
        Entry(path="a", kind="dir", size=1, root=ROOT),
        Entry(path="a", kind="dir", executable=True),
        Entry(path="a", kind="link", target="b", executable=True),
    ],
)
def test_an_entry_that_contradicts_itself_is_refused(entry):
    with pytest.raises(UsageError):
        Manifest.build([entry])


def test_sizes_that_add_up_to_too_much_are_refused():
    with pytest.raises(UsageError, match="add up"):
        Manifest.build([_file("a", 2**62), _file("b", 2**62)])


HEX = ROOT.hex()


@pytest.mark.parametrize(
    "body",
    [
        "d a",
        "d a/b\n",
        "d b\nd a\n",
        "d a\nd a\n",
        "d \n",
        "d a\n\n",
        "z a\n",
        "f - 5 a\n",
        f"f - 05 {HEX} a\n",
        f"f - +5 {HEX} a\n",
        f"f - 5_0 {HEX} a\n",
        f"f - {'9' * 30} {HEX} a\n",
        f"f y 5 {HEX} a\n",
        f"f - 5 {HEX.upper()} a\n",
        f"f - 5 {HEX[:-2]} a\n",
        f"f - 0 {HEX} a\n",
        "f - 5 - a\n",
        f"f - 5 {HEX} ../a\n",
        f"f - 5 {HEX} \udcff\n",
        "l 1 a /etc\n",
        "l 1 a ..\n",
        "l 2 a b\n",
        "l 0  b\n",
        "l 1 axb\n",
        "l 1 a \n",
    ],
)
def test_what_encode_would_not_write_is_refused(body):
    with pytest.raises(IntegrityFailed):
        decode(HEADER + body.encode(errors="surrogateescape"))


@pytest.mark.parametrize(
    "data", [b"", b"cached-manifest 2\n", b"cached-manifest 1", b"\xef\xbb\xbf" + HEADER]
)
def test_other_versions_and_truncated_headers_are_refused(data):
    with pytest.raises(IntegrityFailed, match="version 1"):
        decode(data)
