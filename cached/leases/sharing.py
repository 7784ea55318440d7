"""What contents take that have files in common: each file lies once, under a name (a hard link) in each of them.

The contents of one *family* may have files in common, those of two families never have. Exact is what a family takes
in all: how it is spread over its members is bookkeeping, and changes when a member goes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import msgspec

#: Bytes that come back as soon as all contents of a group have gone, by group.
Groups = Mapping[frozenset[str], int]


class Name(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One name, in one content, of a file that has more of them."""

    content: str
    inode: int
    #: Names of the inode in all.
    links: int
    #: What the file takes on the partition.
    bytes: int


def groups(names: Iterable[Name]) -> dict[frozenset[str], int]:
    """Return what comes back when contents go together, of whose files these are all the names.

    A file that has a name elsewhere never comes back with them.
    """
    holders: dict[int, set[str]] = defaultdict(set)
    found: Counter[int] = Counter()
    facts: dict[int, Name] = {}
    for name in names:
        holders[name.inode].add(name.content)
        found[name.inode] += 1
        facts[name.inode] = name
    back: dict[frozenset[str], int] = defaultdict(int)
    for inode, name in facts.items():
        if found[inode] >= name.links:
            back[frozenset(holders[inode])] += name.bytes
    return dict(back)


def own(full: int, names: Iterable[Name]) -> int:
    """Return what of `full`, a content's bytes as if it shared nothing, lies under no second name."""
    return full - sum(name.bytes for name in names)


def returned(full: int, names: list[Name]) -> int:
    """Return what comes back when one content alone goes, of whose files these are the names."""
    return own(full, names) + sum(groups(names).values())


def bequest(members: Mapping[str, int], left: int) -> dict[str, int]:
    """Return what the members of a family are charged with from now on, where that changes.

    A member has gone, and `left` of its charge has not come back: the others hold it. Below zero: more came back than
    it was charged with, because a member that had gone before had left its charge to another than this one.
    """
    changed: dict[str, int] = {}
    for content in sorted(members, key=lambda one: (members[one] if left > 0 else -members[one], one)):
        if not left:
            break
        changed[content] = max(0, members[content] + left)
        left = min(0, members[content] + left)
    return changed


def charges(full: Mapping[str, int], names: Iterable[Name]) -> dict[str, int]:
    """Return what each content of a family is charged with, counted anew from all names: the first one has the file."""
    charged = dict(full)
    counted: set[int] = set()
    for name in sorted(names, key=lambda one: one.content):
        if name.inode in counted:
            charged[name.content] -= name.bytes
        counted.add(name.inode)
    return charged


def families(names: Iterable[Name]) -> list[frozenset[str]]:
    """Return the contents that have files in common, directly or through others; those that have none are left out."""
    head: dict[str, str] = {}

    def find(content: str) -> str:
        while head[content] != content:
            head[content] = head[head[content]]
            content = head[content]
        return content

    first: dict[int, str] = {}
    for name in names:
        head.setdefault(name.content, name.content)
        a, b = find(first.setdefault(name.inode, name.content)), find(name.content)
        head[max(a, b)] = min(a, b)
    found: dict[str, set[str]] = defaultdict(set)
    for content in head:
        found[find(content)].add(content)
    return sorted(map(frozenset, found.values()), key=min)
