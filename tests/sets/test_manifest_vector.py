"""The vector in docs/manifest.md, recomputed by the rules of the page alone and by our code."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from pathlib import Path

import pytest
from cached.sets.manifest import Entry, Manifest, content_id, decode, encode
from cached.sets.merkle import hash_leaves, root_from_leaves

PAGE = (Path(__file__).parents[2] / "docs" / "manifest.md").read_text(encoding="utf-8")


def _block(language):
    return re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[1]


def _fact(name):
    return re.search(rf"^\| {re.escape(name)} \| `(.*?)` \|$", PAGE, re.MULTILINE)[1]


def _content(item):
    return (item.get("text", "") * item.get("times", 1)).encode()


@pytest.fixture(scope="module")
def directory():
    return json.loads(_block("json"))


def _entry(item):
    if "target" in item:
        return Entry(path=item["path"], kind="link", target=item["target"])
    if "directory" in item:
        return Entry(path=item["path"].rstrip("/"), kind="dir")
    data = _content(item)
    return Entry(
        path=item["path"],
        kind="file",
        size=len(data),
        executable=item.get("executable", False),
        root=root_from_leaves(hash_leaves(data)),
    )


def test_our_manifest_is_the_documented_one(directory):
    manifest = Manifest.build(_entry(item) for item in directory)
    assert encode(manifest).decode() == _block("manifest")
    assert decode(_block("manifest").encode()) == manifest
    assert content_id(encode(manifest)) == _fact("content id")
    assert str(manifest.total_bytes) == _fact("total bytes")
    assert str(manifest.file_count) == _fact("regular files")


def test_our_leaves_are_the_documented_ones(directory):
    files = {
        item["path"]: _content(item) for item in directory if "target" not in item and "directory" not in item
    }
    ordered = sorted(files, key=lambda path: path.encode())
    assert sha256(b"".join(hash_leaves(files[path]) for path in ordered)).hexdigest() == _fact(
        "SHA-256 of `leaves`"
    )


def _root_by_the_page(data):
    row = [sha256(data[at : at + 16_384]).digest() for at in range(0, len(data), 16_384)]
    while len(row) & (len(row) - 1):
        row.append(bytes(32))
    while len(row) > 1:
        row = [sha256(row[at] + row[at + 1]).digest() for at in range(0, len(row), 2)]
    return row[0].hex() if row else "-"


def _line_by_the_page(item):
    path = item["path"].rstrip("/")
    if "target" in item:
        return f"l {len(path.encode())} {path} {item['target']}"
    if "directory" in item:
        return f"d {path}"
    data = _content(item)
    return f"f {'x' if item.get('executable') else '-'} {len(data)} {_root_by_the_page(data)} {path}"


def test_the_page_alone_is_enough_to_make_the_manifest(directory):
    lines = {item["path"].rstrip("/"): _line_by_the_page(item) for item in directory}
    for path in list(lines):
        for at in range(1, path.count("/") + 1):
            parent = "/".join(path.split("/")[:at])
            lines.setdefault(parent, f"d {parent}")
    body = "".join(f"{lines[path]}\n" for path in sorted(lines, key=lambda path: path.encode()))
    canonical = ("cached-manifest 1\n" + body).encode()
    assert canonical.decode() == _block("manifest")
    assert sha256(canonical).hexdigest() == _fact("content id")
