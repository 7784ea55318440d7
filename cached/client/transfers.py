"""What a job's input and output localisation moves, and under which names it arrives: a rule without I/O.

A transfer is `{"from", "to", "cache"}`. Where it leads is told by its two ends:

- `gs://` to a local path: input; a local path to `gs://`: output;
- anything else to a local path: a set, `NAME` or `NAME/PATH`.

`*` and `?` stand for characters within one part of a name, `**` for any, across parts, as with `gcloud storage`. What
a wildcard finds keeps its name from the last `/` before the first wildcard on; what lies in a directory keeps its
name below that directory.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final, Literal

import msgspec

from cached.addresses import Address, is_address, object_name, parse, parse_prefix
from cached.errors import BadName, CachedError, UsageError

Kind = Literal["in", "out", "set"]

_WILD = re.compile(r"[*?]")
_TOKEN = re.compile(r"\*\*/|\*{2,}|\*|\?|[^*?]+", re.DOTALL)
_REGEX: Final = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
#: Longest part of a path, in bytes (`NAME_MAX` of Linux).
_LONGEST_PART: Final = 255


class Transfer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One wish, as the job wrote it."""

    source: str = msgspec.field(name="from")
    to: str
    #: Keep a copy in this node's cache; false: use one that is there, but keep none.
    cache: bool = True

    @property
    def kind(self) -> Kind:
        """Which way it goes. Raises `UsageError` for what `localize` does not move."""
        if is_address(self.to):
            if is_address(self.source):
                raise UsageError(f"{self.source} to {self.to}: both are in Cloud Storage", hint=_WAYS)
            return "out"
        if is_address(self.source):
            return "in"
        if self.source.startswith(("/", ".", "~")):
            raise UsageError(f"{self.source} to {self.to}: both are local", hint=_WAYS)
        return "set"


_WAYS: Final = "a transfer goes from gs:// to a path, from a path to gs://, or from a set to a path"


class _Items(msgspec.Struct):
    items: list[Transfer]


class Found(msgspec.Struct, frozen=True):
    """Something a transfer may mean: an object, by its name in the bucket, or a file, by its path."""

    name: str
    size: int
    #: 0 for files.
    generation: int = 0


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """One file to be moved: an address and a path, one way or the other, or a set and a path."""

    kind: Kind
    source: str
    to: str
    #: Of an input: the part of `to` that the user named as a directory.
    within: str = ""
    size: int = 0
    cache: bool = True


class Pattern:
    """The `from` side: one name, everything below a directory, or what fits wildcards."""

    def __init__(self, text: str, *, literal: bool = False) -> None:
        """`text` is the name without its scheme and bucket, or a local path; `literal`: without wildcards."""
        wild = None if literal else _WILD.search(text)
        self.text = text
        #: All names that fit begin so: what has to be listed.
        self.prefix = text if wild is None else text[: wild.start()]
        #: What the names arriving are relative to; ends with `/`, or is empty.
        self.base = self.prefix[: self.prefix.rfind("/") + 1]
        #: It may mean several: where they go is a directory.
        self.many = wild is not None or text.endswith("/") or not text
        self._regex = None if wild is None else re.compile(_translated(text), re.DOTALL)

    @property
    def wild(self) -> bool:
        """Whether there are wildcards in it."""
        return self._regex is not None

    @property
    def depth(self) -> int | None:
        """How many parts below `base` a name has that fits, at most; None: any number."""
        if self._regex is None or "**" in self.text:
            return None
        return self.text[len(self.base) :].count("/") + 1

    def relative(self, name: str) -> str | None:
        """Return the name under which `name` arrives, or None when it does not fit."""
        if self._regex is not None:
            fits = self._regex.fullmatch(name) is not None
        else:
            fits = name.startswith(self.base) if self.many else name == self.text
        return name[len(self.base) :] if fits and len(name) > len(self.base) else None


def read(data: bytes) -> list[Transfer]:
    """Read a JSON list of transfers, or `{"items": [...]}`. Raises `UsageError`."""
    try:
        try:
            found = msgspec.json.decode(data, type=list[Transfer])
        except msgspec.ValidationError:
            if not data.lstrip().startswith(b"{"):
                raise
            found = msgspec.json.decode(data, type=_Items).items
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the list of transfers cannot be read: {error}", hint=_SHAPE) from None
    for transfer in found:
        _check(transfer)
    return found


_SHAPE: Final = '[{"from": "gs://BUCKET/OBJECT", "to": "PATH", "cache": true}, ...]'


def _check(transfer: Transfer) -> None:
    for text in (transfer.source, transfer.to):
        if not text or "\0" in text:
            raise UsageError(f"{text!r} names nothing", hint=_SHAPE)
    if is_address(transfer.to) and _WILD.search(transfer.to):
        raise UsageError(f"{transfer.to}: wildcards belong to `from`")
    kind = transfer.kind
    for end in {"in": (transfer.source,), "out": (transfer.to,), "set": ()}[kind]:
        parse_prefix(end)


def source_objects(transfer: Transfer) -> tuple[str, Pattern]:
    """Return bucket and pattern of an input's `from`; `#GENERATION` stays part of a single name."""
    where = parse_prefix(transfer.source)
    return where.bucket, Pattern(where.name)


def inputs(
    transfer: Transfer, found: Iterable[Found], *, to_is_directory: bool
) -> Iterator[Copy | CachedError]:
    """Yield what an input brings of the objects `found`, or the error of a name that cannot be a file's here.

    A name that ends with `/` and has no bytes is what tools leave for an empty directory: passed over.
    """
    bucket, pattern = source_objects(transfer)
    if not pattern.many:
        address = parse(transfer.source)
        yield _single(transfer, address, to_is_directory=to_is_directory)
        return
    for each in found:
        name = pattern.relative(each.name)
        if name is None or (name.endswith("/") and not each.size):
            continue
        try:
            to = _below(transfer.to, local_name(name, f"gs://{bucket}/{each.name}"))
        except BadName as error:
            yield error
            continue
        source = _spelt(bucket, each)
        yield Copy(kind="in", source=source, to=to, within=transfer.to, size=each.size, cache=transfer.cache)


def _single(transfer: Transfer, address: Address, *, to_is_directory: bool) -> Copy | CachedError:
    to = transfer.to
    within = to[: to.rfind("/") + 1]
    if to_is_directory or to.endswith("/"):
        within = to
        try:
            to = _below(to, local_name(address.name.rpartition("/")[2], str(address)))
        except BadName as error:
            return error
    return Copy(kind="in", source=str(address), to=to, within=within, cache=transfer.cache)


def _spelt(bucket: str, found: Found) -> str:
    """Return an address that means just this object: a name that ends like a generation gets its own behind it."""
    plain = str(Address(bucket, found.name))
    if parse(plain).generation is None:
        return plain
    return str(Address(bucket, found.name, found.generation))


def outputs(transfer: Transfer, pattern: Pattern, found: Iterable[Found]) -> Iterator[Copy | CachedError]:
    """Yield what an output sends of the files `found`, or the error of a name that cannot be an object's.

    `pattern` is that of the `from` side, with a `/` at its end for a directory.
    """
    where = parse_prefix(transfer.to)
    below = pattern.many or not where.name or where.name.endswith("/")
    for each in found:
        name = pattern.relative(each.name)
        if name is None:
            continue
        try:
            whole = object_name(_below(where.name, name) if below else where.name, each.name)
            address = Address(where.bucket, whole)
            if parse(str(address)) != address:
                raise BadName(
                    f"{each.name!r}: #... at the end of an object's name would be read as a generation"
                )
        except UsageError as error:
            yield error
            continue
        yield Copy(kind="out", source=each.name, to=str(address), size=each.size, cache=transfer.cache)


def local_name(name: str, what: str) -> str:
    """Return an object's relative name if it can be a file's below a directory; `what` is for messages.

    Raises `BadName`: absolute, empty parts, `.`, `..`, control characters, too long for a file system.
    """
    parts = name.split("/")
    if any(unicodedata.category(char) == "Cc" for char in name):
        raise BadName(
            f"{what!r}: its name has control characters", hint="name this object alone, and its file"
        )
    if any(part in ("", ".", "..") for part in parts):
        raise BadName(f"{what!r}: its name is no path below a directory", hint=_ALONE)
    if max(len(part.encode()) for part in parts) > _LONGEST_PART:
        raise BadName(f"{what!r}: a part of its name is too long for a file", hint=_ALONE)
    return name


_ALONE: Final = "name this object alone, and the file that it becomes"


def check_distinct(copies: Iterable[Copy]) -> None:
    """Raise `UsageError` when two copies would arrive under one name, or one would be a directory of another."""
    taken: dict[str, Copy] = {}
    for each in copies:
        other = taken.setdefault(_place(each.to), each)
        if other is not each:
            raise UsageError(f"{other.source} and {each.source} would both become {each.to}")
    for place, each in taken.items():
        if each.kind == "out":
            continue
        for above in _parents(place):
            if above in taken and taken[above].kind == "in":
                raise UsageError(
                    f"{each.source} would become {each.to}, below the file that {taken[above].source} becomes"
                )


def _place(to: str) -> str:
    return to if is_address(to) else re.sub(r"/(\./|/)*", "/", to.removeprefix("./")).rstrip("/")


def _parents(place: str) -> Iterator[str]:
    at = place.rfind("/")
    while at > 0:
        place = place[:at]
        yield place
        at = place.rfind("/")


def _below(directory: str, name: str) -> str:
    return f"{directory}{name}" if not directory or directory.endswith("/") else f"{directory}/{name}"


def _translated(text: str) -> str:
    parts = ("**" if len(token) > 2 and set(token) == {"*"} else token for token in _TOKEN.findall(text))
    return "".join(_REGEX.get(part, "") or re.escape(part) for part in parts)
