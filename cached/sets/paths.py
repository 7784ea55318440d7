"""Paths inside a set: what may be a name, and where a link may lead.

Checked when a set is created and again when a manifest arrives. Names are kept as they are, never normalised.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

from cached.errors import BadName, UnsupportedFile

#: Longest element, in bytes: what Linux file systems take.
MAX_ELEMENT: Final = 255
#: Longest path or link target, in bytes: what one system call takes (PATH_MAX, less its NUL).
MAX_PATH: Final = 4095
#: Most links followed on the way to one entry, as in the kernel.
MAX_LINKS: Final = 40
#: Most elements walked on the way to one entry: an honest link has a few, a hostile one could have millions.
MAX_STEPS: Final = 4096

_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_UNFIT_PATH = re.compile(_UNFIT.pattern + r"|(?:\A|/)\.{0,2}(?:/|\Z)")
#: The same in many paths at once, one a line.
_UNFIT_LINE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]|(?:\A|[/\n])\.{0,2}(?:[/\n]|\Z)")


def check_path(path: str) -> None:
    """Raise `BadName` unless `path` may be the path of an entry, relative to the set's root."""
    if _UNFIT_PATH.search(path):
        raise BadName(f"{path!r} cannot be a path in a set", hint=_why(path))
    if len(path) * 4 > MAX_ELEMENT:
        _check_length(path)


def check_paths(paths: Collection[str]) -> None:
    """Raise `BadName` for the first of many paths that `check_path` refuses; they are looked at together."""
    lines = "\n".join(paths)
    sound = not _UNFIT_LINE.search(lines) and lines.count("\n") == len(paths) - 1
    if not sound or len(max(paths, key=len)) * 4 > MAX_ELEMENT:
        for path in paths:
            check_path(path)


def _why(path: str) -> str:
    if _UNFIT.search(path):
        return "names are UTF-8 without control characters"
    if path.startswith("/"):
        return "paths are relative to the set's root"
    return "no element may be empty, . or .."


def _check_length(path: str) -> None:
    if len(path.encode()) > MAX_PATH:
        raise BadName(f"path {path[:60]!r}… is too long", hint=f"at most {MAX_PATH} bytes")
    for element in path.split("/"):
        if len(element.encode()) > MAX_ELEMENT:
            raise BadName(f"name {element[:60]!r}… is too long", hint=f"at most {MAX_ELEMENT} bytes")


def check_link(path: str, target: str) -> None:
    """Raise `UnsupportedFile` unless the link's text is fit and stays, read by itself, inside the set.

    Links that lead through other links are judged by `check_links`, which knows them all.
    """
    if not target or _UNFIT.search(target) or len(target.encode()) > MAX_PATH:
        raise UnsupportedFile(f"link {path!r} has a target that cannot be stored: {target[:60]!r}")
    if target.startswith("/"):
        raise UnsupportedFile(
            f"link {path!r} leads to the absolute path {target!r}", hint="make it relative, inside the set"
        )
    depth = path.count("/")
    for element in target.split("/"):
        depth += _STEP.get(element, 1)
        if depth < 0:
            raise _leaves(path, target)


_STEP: Final = {"..": -1, ".": 0, "": 0}


def _leaves(path: str, target: str) -> UnsupportedFile:
    return UnsupportedFile(
        f"link {path!r} leads outside the set: {target!r}",
        hint="leave it out, or put its target into the set",
    )


def check_links(links: Mapping[str, str]) -> None:
    """Check all links of a set, path to target, together; raises `UnsupportedFile` for one that gets outside.

    A link may dangle or run in circles: nothing opens through it then. It may not leave the set, not even by
    way of another link.
    """
    for path, target in links.items():
        check_link(path, target)
    for path, target in links.items():
        if ".." in target.split("/") and follow(links, path) is None:
            raise _leaves(path, target)


def follow(links: Mapping[str, str], path: str) -> str | None:
    """Return what `path` comes to once all links on its way are followed, None if that leaves the set.

    The root is the empty string. A way of more than `MAX_LINKS` links ends where the kernel gives up; one of
    more than `MAX_STEPS` elements, which nobody needs, counts as leaving.
    """
    ahead = path.split("/")[::-1]
    #: The path up to here, and all its parents; the root first.
    trail = [""]
    followed = steps = 0
    while ahead:
        element = ahead.pop()
        steps += 1
        if element in ("", "."):
            continue
        if element == "..":
            trail.pop()
        else:
            trail.append(f"{trail[-1]}/{element}" if trail[-1] else element)
        if not trail or steps > MAX_STEPS:
            return None
        target = links.get(trail[-1])
        if target is not None:
            followed += 1
            if followed > MAX_LINKS:
                break
            trail.pop()
            ahead.extend(target.split("/")[::-1])
    return trail[-1]
