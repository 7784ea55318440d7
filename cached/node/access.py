"""Which set a name stands for, and what a caller may do with it.

A caller sees a set that is the caller's own, shared with the caller, or any set when the caller is an administrator
of this node. Administrators may delete, verify and replicate every set; its owner alone changes what it is (or an
administrator could share it with himself), and only the owner and those shared with may read its bytes. What a caller
may not see is `not_found`, in the same words as what does not exist.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cached.errors import AmbiguousName, Forbidden, NotFound
from cached.node.caller import Caller
from cached.node.shelf import Known, Shelf
from cached.sets.names import SetRef
from cached.sets.set import SetRecord

#: Decisions remembered, at most.
_REMEMBERED: Final = 4096


class Decisions:
    """Which set a name means to a caller who may read it, remembered until anything on the shelf changes."""

    def __init__(self) -> None:
        self._version = -1
        self._known: dict[tuple[Caller, SetRef], Known] = {}

    def readable(self, shelf: Shelf, caller: Caller, ref: SetRef, kept: Callable[[Known], bool]) -> Known:
        """Return what `resolve` does. Raises what it raises, and `Forbidden` where the caller may not read."""
        if shelf.version != self._version:
            self._known.clear()
            self._version = shelf.version
        found = self._known.get((caller, ref))
        if found is None:
            found = resolve(shelf, caller, ref, kept=kept)
            check_read(caller, found)
            if _depends_on_the_shelf_alone(shelf, caller, ref, found):
                if len(self._known) >= _REMEMBERED:
                    self._known.clear()
                self._known[caller, ref] = found
        return found


def may_read(caller: Caller, record: SetRecord) -> bool:
    """Tell whether the caller may open the set's files."""
    if record.owner == caller.user or record.share == "public":
        return True
    kind, _, group = record.share.partition(":")
    return kind == "group" and group in caller.groups


def may_see(caller: Caller, record: SetRecord) -> bool:
    """Tell whether the caller may know that the set exists."""
    return caller.admin or may_read(caller, record)


def may_manage(caller: Caller, record: SetRecord) -> bool:
    """Tell whether the caller may delete, verify or replicate the set."""
    return caller.admin or record.owner == caller.user


def check_manage(caller: Caller, known: Known, verb: str) -> None:
    """Raise `Forbidden` unless the caller may manage the set."""
    if not may_manage(caller, known.record):
        raise Forbidden(
            f"only {known.record.owner} may {verb} {known.record.name}",
            hint="ask its owner, or an administrator of this node",
        )


def check_own(caller: Caller, known: Known, verb: str) -> None:
    """Raise `Forbidden` unless the set is the caller's."""
    if known.record.owner != caller.user:
        raise Forbidden(f"only {known.record.owner} may {verb} {known.record.name}", hint="ask its owner")


def check_read(caller: Caller, known: Known) -> None:
    """Raise `Forbidden` unless the caller may open the set's files."""
    if not may_read(caller, known.record):
        raise Forbidden(
            f"{known.record.owner} has not shared {known.record.name} with you",
            hint="the owner can: cached update NAME --share group:G",
        )


def resolve(
    shelf: Shelf, caller: Caller, ref: SetRef, *, kept: Callable[[Known], bool] = lambda _known: False
) -> Known:
    """Return the set that `ref` means to this caller.

    A bare name is the caller's own set, then the one shared with the caller. Live sets come before withdrawn ones;
    deleted ones are not found, unless `kept` says that the caller's process has them open. Raises `NotFound`, or
    `AmbiguousName` with the candidates.
    """
    seen = [known for known in _candidates(shelf, ref) if may_see(caller, known.record)]
    found = [known for known in seen if offered(shelf, known)] or [known for known in seen if kept(known)]
    for narrower in (lambda known: known.record.owner == caller.user, _live):
        found = [known for known in found if narrower(known)] or found
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotFound(f"no set {ref} is visible to you here", hint="cached list shows the sets that are")
    found.sort(key=lambda known: (known.record.owner, known.record.originator_name, known.record.id))
    names = [f"{known.record.owner}:{known.record.name}@{known.record.originator_name}" for known in found]
    raise AmbiguousName(
        f"{ref} could be any of {', '.join(names)}",
        hint="say OWNER:NAME, NAME@NODE, or id:PREFIX",
        candidates=[{"name": name, "id": known.record.id} for name, known in zip(names, found, strict=False)],
    )


def _candidates(shelf: Shelf, ref: SetRef) -> list[Known]:
    if ref.id_prefix is not None:
        return [known for set_id, known in shelf.known.items() if set_id.startswith(ref.id_prefix)]
    found = list(shelf.named(ref.name or ""))
    if ref.owner is not None:
        found = [known for known in found if known.record.owner == ref.owner]
    if ref.node is not None:
        found = [
            known
            for known in found
            if ref.node
            in (known.record.originator_name, known.record.originator_host, known.record.originator)
        ]
    return found


def _depends_on_the_shelf_alone(shelf: Shelf, caller: Caller, ref: SetRef, found: Known) -> bool:
    """Tell whether it makes no difference what other nodes hold of withdrawn sets, and what is open here of deleted
    ones.
    """
    if not _live(found):
        return False
    return found.record.owner == caller.user or not any(
        known.record.status == "withdrawn" and may_see(caller, known.record)
        for known in _candidates(shelf, ref)
    )


def _live(known: Known) -> bool:
    return known.record.status == "live"


def offered(shelf: Shelf, known: Known) -> bool:
    """Tell whether a set is still there: deleted ones are gone, a withdrawn one is there as long as a replica is."""
    if known.record.status == "deleted":
        return False
    if known.record.status == "live":
        return True
    replica = shelf.replicas.get(known.record.id)
    if replica is not None and replica.state == "COMMITTED":
        return True
    return shelf.held_elsewhere(known.record.id)
