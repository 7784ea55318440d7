"""Which set records two nodes must exchange; a rule.

Records are grouped by the first hex digit of the set id, and each group is summed up by the XOR of its
digests: nodes that agree compare 16 short words, and only groups that differ are listed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

#: set id -> (revision, digest), as `RecordBook.known` gives it.
Known = Mapping[str, tuple[int, str]]
GROUPS = "0123456789abcdef"


def summary(known: Known) -> dict[str, str]:
    """Return group -> XOR of the digests, for groups that are not empty."""
    sums = dict.fromkeys(GROUPS, 0)
    for set_id, (_, digest) in known.items():
        if set_id[:1] in sums:
            sums[set_id[0]] ^= int(digest, 16)
    return {group: f"{value:016x}" for group, value in sums.items() if value}


def differing(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """Return the groups whose sums differ."""
    return [group for group in GROUPS if ours.get(group) != theirs.get(group)]


def listing(known: Known, groups: Collection[str]) -> dict[str, tuple[int, str]]:
    """Return what is known in these groups."""
    return {set_id: mark for set_id, mark in known.items() if set_id[:1] in groups}


def exchange(ours: Known, theirs: Known, groups: Collection[str]) -> tuple[list[str], list[str]]:
    """Return the ids to give and to ask for.

    Where both have a record and they differ, it goes both ways: only the whole record tells which one holds.
    """
    mine = listing(ours, groups)
    give = [set_id for set_id, mark in mine.items() if theirs.get(set_id, (0, ""))[1] != mark[1]]
    want = [
        set_id
        for set_id, mark in theirs.items()
        if set_id[:1] in groups and mine.get(set_id, (0, ""))[1] != mark[1]
    ]
    return give, want
