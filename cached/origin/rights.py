"""Which users may name which bucket: sets are read and written with the node's own account, so the node decides."""

from __future__ import annotations

from collections.abc import Collection

#: Stands for every user.
EVERYBODY = "*"


def may_name(allowed: Collection[str], user: str, groups: Collection[str], *, domain: str = "") -> bool:
    """Tell whether a user may name a bucket that is listed for `allowed`: user names, `group:NAME`, or `*`.

    `user` is `name` or `name@domain`. A name without a domain in the list means the user of that name in the node's own
    `domain`. `groups` are the user's groups on this node: empty for a user of whom they are not known.
    """
    name, _, of = user.partition("@")
    names = {user, name} if of == domain else {user}
    return any(
        entry == EVERYBODY
        or entry in names
        or (entry.startswith("group:") and entry.removeprefix("group:") in groups)
        for entry in allowed
    )
