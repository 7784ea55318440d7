"""Python objects dumped to and loaded from Cloud Storage, through the node.

Unpickling runs code: whoever wrote a pickle decides what the reader's process does. So the node attests, with what it
stores, which user handed it the bytes, and `load` unpickles only what the same user dumped, unless told otherwise.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final, Literal

from cached import wire
from cached.client.channel import Watcher
from cached.errors import Forbidden, IntegrityFailed, UsageError

if TYPE_CHECKING:
    from cached.client.objects import ObjectFile, Objects

#: Whose dumps are unpickled: None, one's own; some users'; or everybody's, without asking who it was.
Trust = Literal["anyone"] | Collection[str] | None

CONTENT_TYPE: Final = "application/vnd.cached.pickle"
#: Times that an object is opened whose copy is moved in the same moment.
TRIES: Final = 3


def dump(
    client: Objects,
    obj: Any,
    address: str,
    *,
    if_generation: int | None = None,
    scope: str | None = None,
    progress: Watcher | None = None,
) -> wire.ObjectView:
    """Pickle an object, have the node attest that this user did it, and store both."""
    from cached.client.pickled import pickled, write
    from cached.client.spool import unnamed_file

    parts, size = pickled(obj)
    with unnamed_file(size) as file:
        write(file.fileno(), parts)
        statement = client.attest(file.fileno(), address, progress=progress)
        return client.put(
            file,
            address,
            if_generation=if_generation,
            content_type=CONTENT_TYPE,
            metadata={wire.DUMP_METADATA: statement},
            scope=scope,
            progress=progress,
        )


def load(
    client: Objects,
    address: str,
    *,
    trust: Trust = None,
    scope: str | None = None,
    progress: Watcher | None = None,
) -> Any:
    """Unpickle an object that a user in `trust` dumped; its buffers are read-only views of shared memory."""
    trusted = _names(trust)
    for _ in range(TRIES - 1):
        with contextlib.suppress(_OtherCopyError):  # the node has just moved it, to memory or from there
            return _load(client, address, trusted, scope, progress)
    return _load(client, address, trusted, scope, progress)


def _load(
    client: Objects,
    address: str,
    trusted: frozenset[str] | Literal["anyone"] | None,
    scope: str | None,
    progress: Watcher | None,
) -> Any:
    from cached.client.pickled import load_from, load_view

    with client.open_object(address, scope=scope, progress=progress) as file:
        _check(client, file, trusted, progress)
        if file.through:
            return load_view(memoryview(file.read()))
        return load_from(file.fileno(), file.object.size)


class _OtherCopyError(IntegrityFailed):
    """The node vouches for another file than the one that was opened."""


def _names(trust: Trust) -> frozenset[str] | Literal["anyone"] | None:
    if trust is None or trust == "anyone":
        return trust
    if isinstance(trust, str) or not all(isinstance(name, str) for name in trust):
        raise UsageError(f"trust={trust!r} names no users", hint='trust={"ada"} or trust="anyone"')
    return frozenset(trust)


def _check(
    client: Objects,
    file: ObjectFile,
    trusted: frozenset[str] | Literal["anyone"] | None,
    progress: Watcher | None,
) -> None:
    """Raise `Forbidden` unless somebody who is trusted dumped this very generation, as the node has verified it."""
    if trusted == "anyone":
        return
    address = file.object.address
    found = client.attested(address, progress=progress)
    if not file.through and found.file != _file(file):
        raise _OtherCopyError(
            f"the node attests another copy of {address} than the one that was opened", hint="load it again"
        )
    if found.own if trusted is None else found.user in trusted:
        return
    raise Forbidden(
        f"{address} was dumped by {found.user}",
        hint=f'unpickling runs code; if you trust {found.user}: load(..., trust={{"{found.user}"}})',
        user=found.user,
    )


def _file(file: ObjectFile) -> str:
    facts = os.fstat(file.fileno())
    return f"{facts.st_dev}:{facts.st_ino}"
