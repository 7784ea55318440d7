"""Requests on `data.sock`: one typed shape for all operations, decoded once."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Final, Literal

import msgspec

from cached import wire
from cached.addresses import Address, parse
from cached.errors import UsageError
from cached.sets.names import SetRef, parse_ref
from cached.sets.paths import check_path

#: Characters of an address: the longest bucket and object, and a generation.
_LONGEST_ADDRESS: Final = 2048
#: Version of the conversation; a request of another version is refused.
VERSION: Final = 1

Count = Annotated[int, msgspec.Meta(ge=0)]


class Request(msgspec.Struct, kw_only=True, gc=False):
    """One request; which fields mean something depends on `op`."""

    op: str
    v: int = VERSION
    #: open: a reference; create: the new set's name.
    name: str = ""
    #: open: inside the set.
    path: str = ""
    #: open: bring the set to this node when it is not here.
    fetch: bool = True
    #: open, create, object, put: send interim packets.
    progress: bool = False
    options: wire.CreateOptions | None = None
    #: create: sum of all sizes, in bytes.
    bytes: Count = 0
    #: create: number of regular files.
    files: Count = 0
    entries: list[wire.NewEntry] = msgspec.field(default_factory=list)
    #: close: id of the set, or pin of the object, that is given back.
    set: str = ""
    #: close: send an answer.
    answer: bool = True
    #: object, put: `gs://BUCKET/OBJECT`, and `#GENERATION` where one is meant.
    address: str = ""
    #: object, put: the caller's access token; empty: none.
    token: str = ""
    #: object, put: the batch that the copy belongs to.
    scope: str = ""
    #: object: whether to keep a copy here, and where.
    keep: Literal["auto", "memory", "none"] = "auto"
    #: put: the generation that must be there at present; 0: none.
    if_generation: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    #: put
    content_type: str = ""
    metadata: dict[str, str] = msgspec.field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Request({self.op!r})"


_decoder = msgspec.json.Decoder(Request)


def decode(data: bytes) -> Request:
    """Read one packet; raises `UsageError` that says what does not fit."""
    try:
        request = _decoder.decode(data)
    except wire.UNREADABLE as error:
        raise UsageError(f"the request is not well formed: {error}", hint="see docs/wire.md") from error
    if request.v != VERSION:
        raise UsageError(
            f"version {request.v} of the data.sock protocol is not spoken here", hint=f"use {VERSION}"
        )
    return request


@lru_cache(maxsize=4096)
def address(text: str) -> Address:
    """Return the object that a request names. Raises `UsageError`."""
    if len(text) > _LONGEST_ADDRESS:
        raise UsageError(f"{len(text)} characters are too many for the address of an object")
    return parse(text)


@lru_cache(maxsize=4096)
def target(name: str, path: str) -> tuple[SetRef, str]:
    """Return the set that a request names and the path in it, which may stand in either field. Raises
    `BadName`.
    """
    ref = parse_ref(name)
    inside = "/".join(part for part in (ref.path, path.strip("/")) if part)
    if inside:
        check_path(inside)
    return msgspec.structs.replace(ref, path=None), inside
