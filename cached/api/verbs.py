"""What the local sockets ask of the node: one callable a verb, bound to the node by the composition root.

The sockets know these shapes and nothing of what is behind them, so that the tests drive real sockets against
a fake node. Every verb raises `CachedError`s for what the caller is to be told.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from cached import wire
from cached.addresses import Address, Prefix
from cached.hands import Hold
from cached.node.caller import Caller
from cached.node.objects import PutOptions
from cached.sets.names import SetRef

Report = Callable[[wire.Progress], None]


class Grant(Protocol):
    """The lease that a creation got."""

    @property
    def seconds(self) -> int | float:
        """How long it lasts from now."""

    @property
    def shortened(self) -> bool:
        """Less than was asked for."""

    @property
    def reason(self) -> str:
        """Why it was shortened; empty when it was not."""


class Creation(Protocol):
    """A set that is being handed over; calls come one after another, never two at once."""

    @property
    def txid(self) -> str:
        """The creation's id, for messages."""

    @property
    def grant(self) -> Grant:
        """The lease it got."""

    @property
    def bytes_done(self) -> int:
        """Bytes copied so far; grows while `add` runs."""

    @property
    def files_done(self) -> int:
        """Regular files copied so far."""

    @property
    def bytes_wanted(self) -> int:
        """Bytes of all files, as announced or as the origin says."""

    @property
    def upload(self) -> wire.Progress | None:
        """From `ahead` on: how far the origin has it; None when nothing is on its way there."""

    async def draw(self) -> None:
        """Bring what the set is to be made of from the origin. May be cancelled; `abort` follows."""

    async def add(self, entries: Sequence[wire.NewEntry], fds: Sequence[int]) -> None:
        """Copy entries; owns `fds` (one a file, in order) from the call on. May be cancelled; `abort`
        follows.
        """

    async def ahead(self) -> None:
        """Compare with the origin, where it is to keep the set, and send first what takes another set's place.

        May be cancelled; `abort` follows.
        """

    async def seal(self) -> wire.SetView:
        """Commit. Never cancelled: it either commits or raises and cleans up."""

    async def kept(self) -> wire.SetView:
        """After `seal`: wait until the origin has it too, where that was asked for. Cancelling stops only the wait."""

    async def abort(self) -> None:
        """Stop threads that still copy and remove everything; harmless twice, or after a failure."""


class Opened(Protocol):
    """An open file or directory of a set. The receiver owns `fd` and gives `pin` to `release`, once."""

    @property
    def set(self) -> wire.SetHead:
        """The set it belongs to."""

    @property
    def kind(self) -> Literal["file", "dir"]:
        """What `fd` is."""

    @property
    def size(self) -> int:
        """Bytes of a file; 0 for a directory."""

    @property
    def executable(self) -> bool:
        """The file's executable bit."""

    @property
    def root(self) -> str:
        """Merkle root of a file in hex; empty for an empty file and for a directory."""

    @property
    def fd(self) -> int:
        """Read-only descriptor."""

    @property
    def pin(self) -> Any:
        """Keeps the replica until it is given to `release`; every open takes one."""


class OpenedObject(Protocol):
    """An open copy of an object. The receiver owns `fd` and gives `pin` to `object_release`, once."""

    @property
    def view(self) -> wire.ObjectView:
        """Which generation it is."""

    @property
    def fd(self) -> int:
        """Read-only descriptor of all its bytes; -1 when no copy could be kept: read it by `object_stream`."""

    @property
    def tier(self) -> wire.ObjectTier:
        """Where the bytes came from."""

    @property
    def pin(self) -> str:
        """Keeps the copy from being evicted until it is given to `object_release`; every open takes one."""

    @property
    def count(self) -> Callable[[], None]:
        """Counts and charges what `open_now` has opened: called once, when the answer is on its way."""


@dataclass(frozen=True, kw_only=True)
class ObjectVerbs:
    """The node's verbs on objects of Cloud Storage.

    The first argument of each is the caller, `token` the access token that came with the request (empty: none, so
    only what everybody may read); it goes no further than to Cloud Storage.
    """

    #: (caller, address, token, scope) -> OpenedObject, or None when Cloud Storage must be asked. Must not block.
    open_now: Callable[[Caller, Address, str, str], OpenedObject | None]
    #: (caller, address, *, token, scope, keep: as in `cached.objects.cache`, progress: Report | None) -> OpenedObject
    open: Callable[..., Awaitable[OpenedObject]]
    #: (pin) -> None; must not block.
    release: Callable[[str], None]
    #: (caller, address, token)
    stat: Callable[[Caller, Address, str], Awaitable[wire.ObjectView]]
    #: (caller, prefix, token, delimiter) -> page after page, the first one also when there is nothing.
    list: Callable[[Caller, Prefix, str, str], AsyncIterator[wire.ObjectList]]
    #: (caller, prefix or None for all) -> the caller's copies on this node
    copies: Callable[[Caller, Prefix | None], wire.CopyList]
    #: (caller, view, start, stop, token) -> the bytes of a range, from Cloud Storage.
    stream: Callable[[Caller, wire.ObjectView, int, int, str], AsyncIterator[bytes]]
    #: (caller, address, fd, token, options, progress); the caller keeps `fd`, a regular file or memory.
    put: Callable[[Caller, Address, int, str, PutOptions, Report | None], Awaitable[wire.ObjectView]]
    #: (caller, prefix or None for all, user or None for the caller)
    clear: Callable[[Caller, Prefix | None, str | None], Awaitable[wire.ClearReply]]
    #: (caller, scope, delete_origin, token, dry_run)
    end_scope: Callable[[Caller, str, bool, str, bool], Awaitable[wire.ScopeReply]]


@dataclass(frozen=True, kw_only=True)
class AttestVerbs:
    """What the node says about who dumped an object."""

    #: (caller, SHA-256 of the bytes in hex, address) -> the statement for the object's metadata
    sign: Callable[[Caller, str, Address], str]
    #: (statement, SHA-256, address) -> the user; raises `Forbidden`.
    check: Callable[[str, str, Address], str]
    #: (user, work) -> what it returns: run in a thread of that user's, for it reads what the user handed over.
    read: Callable[[str, Callable[[Hold], int]], Awaitable[int]]


@dataclass(frozen=True, kw_only=True)
class Verbs:
    """The node's verbs; the first argument of each is the caller."""

    #: (caller, ref, path) -> Opened, or None when it takes I/O or a fetch to tell. Must not block.
    open_now: Callable[[Caller, SetRef, str], Opened | None]
    #: (caller, ref, path, *, fetch: bool, progress: Report | None) -> Opened. Cancelling stops the wait, not
    #: the fetch.
    open_path: Callable[..., Awaitable[Opened]]
    #: (pin) -> None; must not block.
    release: Callable[[Any], None]
    #: (caller, name, options, total_bytes, total_files) -> Creation
    begin: Callable[[Caller, str, wire.CreateOptions, int, int], Awaitable[Creation]]
    #: (caller, local) -> sets
    list_sets: Callable[[Caller, bool], Awaitable[Sequence[wire.SetView]]]
    #: (caller, ref) -> set
    show: Callable[[Caller, SetRef], Awaitable[wire.SetView]]
    #: (caller, ref) -> entries of the manifest
    files: Callable[[Caller, SetRef], Awaitable[Sequence[wire.FileView]]]
    #: (caller, ref, changes): only the fields that change.
    update: Callable[[Caller, SetRef, dict[str, Any]], Awaitable[wire.SetView]]
    #: (caller, ref, seconds, everywhere)
    extend: Callable[[Caller, SetRef, int, bool], Awaitable[wire.ExtendReply]]
    #: (caller, ref, everywhere, dry_run)
    delete: Callable[[Caller, SetRef, bool, bool], Awaitable[wire.DeleteReply]]
    #: (caller, ref, replicas: int | None, to: list of nodes, wait, timeout_seconds, progress)
    replicate: Callable[
        [Caller, SetRef, int | None, Sequence[str], bool, float, Report], Awaitable[wire.ReplicateReply]
    ]
    #: (caller, ref, progress)
    fetch: Callable[[Caller, SetRef, Report], Awaitable[wire.ReplicateReply]]
    #: (caller, ref, repair, progress)
    verify: Callable[[Caller, SetRef, bool, Report], Awaitable[wire.VerifyReply]]
    #: (caller, ref)
    match: Callable[[Caller, SetRef], Awaitable[Sequence[wire.MatchView]]]
    #: (caller)
    nodes: Callable[[Caller], Awaitable[Sequence[wire.NodeView]]]
    #: (caller) -> JSON value
    status: Callable[[Caller], Awaitable[Any]]
    #: (caller, user, since, scope): each of them None for all that the caller may see.
    usage: Callable[[Caller, str | None, str | None, str | None], Awaitable[Any]]
    #: (caller)
    limits: Callable[[Caller], Awaitable[wire.LimitsView]]
    #: (caller, changes): `upload`, `download`, in bytes per second or None for no limit.
    limit: Callable[[Caller, Mapping[str, int | None]], Awaitable[wire.LimitsView]]
    #: (caller, names as given, job ad or None)
    locate: Callable[[Caller, Sequence[str], str | None], Awaitable[wire.LocateReply]]
    #: On objects of Cloud Storage; None: this node knows none.
    objects: ObjectVerbs | None = None
    #: On who dumped them; None: this node attests nothing.
    attests: AttestVerbs | None = None
