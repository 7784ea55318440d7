"""Names of sets and owners, and how users refer to a set.

A reference is `[OWNER:]NAME[@NODE][/PATH]` or `id:PREFIX[@NODE][/PATH]`.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from cached.errors import BadName, UsageError
from cached.sets.paths import check_path

#: Fewest hex digits of a set id that name a set.
MIN_ID_PREFIX: Final = 8

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_OWNER = re.compile(r"[^\s:/@\x00-\x1f\x7f-\x9f-][^\s:/@\x00-\x1f\x7f-\x9f]*(?:@[A-Za-z0-9][A-Za-z0-9.-]*)?")
_GROUP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}\$?(?:@[A-Za-z0-9][A-Za-z0-9.-]*)?")
_ID_PREFIX = re.compile(r"[0-9a-f]{8,32}")


class SetRef(msgspec.Struct, frozen=True, kw_only=True):
    """What a user wrote to name a set, or a path in it; either `name` or `id_prefix` is there."""

    #: `user` or `user@domain`; None: the caller's own, then what is shared with the caller.
    owner: str | None = None
    name: str | None = None
    #: Label, host or id of a node.
    node: str | None = None
    #: Inside the set; None for its root.
    path: str | None = None
    #: 8 to 32 lower-case hex digits.
    id_prefix: str | None = None

    def __str__(self) -> str:
        head = f"id:{self.id_prefix}" if self.id_prefix else str(self.name)
        owner = f"{self.owner}:" if self.owner else ""
        node = f"@{self.node}" if self.node else ""
        path = f"/{self.path}" if self.path else ""
        return f"{owner}{head}{node}{path}"


def parse_ref(text: str) -> SetRef:
    """Return what `text` refers to; a trailing slash means nothing. Raises `BadName`."""
    head, _, tail = text.partition("/")
    path = tail.rstrip("/") or None
    if path is not None:
        check_path(path)
    if head.startswith("id:"):
        return _parse_id(head, path)
    owner, colon, rest = head.rpartition(":")
    name, at, node = rest.partition("@")
    if colon:
        check_owner(owner)
    if at and not _NAME.fullmatch(node):
        raise BadName(f"{node!r} is not the name of a node", hint="[OWNER:]NAME[@NODE][/PATH]")
    check_set_name(name)
    return SetRef(owner=owner or None, name=name, node=node or None, path=path)


def _parse_id(head: str, path: str | None) -> SetRef:
    prefix, at, node = head.removeprefix("id:").lower().partition("@")
    if not _ID_PREFIX.fullmatch(prefix):
        raise BadName(f"{head!r} is not a set id", hint=f"write id: and {MIN_ID_PREFIX} or more hex digits")
    if at and not _NAME.fullmatch(node):
        raise BadName(f"{node!r} is not the name of a node")
    return SetRef(id_prefix=prefix, node=node or None, path=path)


def check_set_name(name: str) -> None:
    """Raise `BadName` unless `name` may name a set."""
    if not _NAME.fullmatch(name):
        raise BadName(
            f"{name!r} is not a name for a set",
            hint="a letter or digit, then up to 127 letters, digits, dots, underscores or hyphens",
        )


def check_owner(owner: str) -> None:
    """Raise `BadName` unless `owner` is `user` or `user@domain`."""
    if not _OWNER.fullmatch(owner) or len(owner.encode(errors="replace")) > 255:
        raise BadName(f"{owner!r} is not the name of a user", hint="write USER or USER@DOMAIN")


def check_share(share: str) -> None:
    """Raise `UsageError` unless `share` is `private`, `public` or `group:NAME`."""
    kind, _, group = share.partition(":")
    if share not in ("private", "public") and not (kind == "group" and _GROUP.fullmatch(group)):
        raise UsageError(f"{share!r} is no way to share a set", hint="write private, public or group:NAME")


def check_scope(scope: str) -> str:
    """Return the name of a scope, or nothing. Raises `BadName`."""
    if scope and not _NAME.fullmatch(scope):
        raise BadName(
            f"{scope!r} is not a name for a scope",
            hint="a letter or digit, then up to 127 letters, digits, dots, underscores or hyphens",
        )
    return scope
