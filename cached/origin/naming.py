"""Names of objects as paths of a set: what lies below a prefix, and which names cannot be files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cached.errors import BadName
from cached.origin.values import Pinned
from cached.sets.paths import check_path

#: Of a set that is kept in the origin: where what makes it a set lies below its prefix, and the object that says so.
KEPT = ".cached/"
DOCUMENT = f"{KEPT}set"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a set made of objects consists of."""

    bucket: str
    #: What all names begin with: empty, or up to and with a slash. A path is the rest of a name.
    base: str
    #: By path.
    files: dict[str, Pinned]
    #: Directories that have an object of their own, whose name ends with a slash.
    directories: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        """Sum of the sizes of all files."""
        return sum(pinned.size for pinned in self.files.values())


def directory(name: str) -> str:
    """Return what the names of the objects in a directory begin with; `name` may end with a slash or not."""
    return name if not name or name.endswith("/") else f"{name}/"


def single(pinned: Pinned) -> Plan:
    """Return the plan of a set of one object, which keeps the last part of its name. Raises `BadName`."""
    path = pinned.name.rpartition("/")[2]
    _check(pinned, path)
    return Plan(bucket=pinned.bucket, base=pinned.name[: len(pinned.name) - len(path)], files={path: pinned})


def below(listed: Iterable[Pinned], bucket: str, base: str) -> Plan:
    """Return the plan of a set of all objects listed, whose names begin with `base`.

    Raises `BadName`, naming the object, for a name that cannot be a path, and for objects that would have to be
    file and directory at the same time. What makes the objects a set that is kept there is left out.
    """
    files: dict[str, Pinned] = {}
    marked: dict[str, Pinned] = {}
    for pinned in listed:
        path = pinned.name[len(base) :]
        if path.startswith(KEPT) or (not path and not pinned.size):
            continue
        if path.endswith("/"):
            _check(pinned, path[:-1])
            if pinned.size:
                raise _unfit(pinned, "its name is a directory's, and it has bytes")
            marked[path[:-1]] = pinned
        else:
            _check(pinned, path)
            files[path] = pinned
    for path, pinned in (files | marked).items():
        _check_parents(path, pinned, files)
    for path in marked.keys() & files.keys():
        raise _clash(files[path], marked[path])
    return Plan(bucket=bucket, base=base, files=files, directories=tuple(sorted(marked)))


def _check(pinned: Pinned, path: str) -> None:
    try:
        check_path(path)
    except BadName as error:
        raise _unfit(pinned, error.hint or error.message) from None


def _check_parents(path: str, pinned: Pinned, files: dict[str, Pinned]) -> None:
    while "/" in path:
        path = path.rpartition("/")[0]
        if path in files:
            raise _clash(files[path], pinned)


def _unfit(pinned: Pinned, why: str) -> BadName:
    name = f"gs://{pinned.bucket}/{pinned.name}"
    return BadName(
        f"{name!r} cannot be a file of a set: {why}", hint="rename it, or name a prefix without it"
    )


def _clash(file: Pinned, other: Pinned) -> BadName:
    names = [f"gs://{one.bucket}/{one.name}" for one in (file, other)]
    return BadName(
        f"{names[0]!r} would have to be a file and a directory: there is {names[1]!r} too",
        hint="rename one of them, or name a prefix that holds only one",
    )
