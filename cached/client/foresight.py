"""What a localisation would come to: which inputs there are, how large, what is here, and what would be replaced."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from cached import wire
from cached.addresses import parse
from cached.client.arrival import is_here
from cached.client.localize import Failed
from cached.client.transfers import Copy
from cached.errors import CachedError, Forbidden, NotFound

if TYPE_CHECKING:
    from cached.client.client import Client

#: Questions asked at a time.
_AT_ONCE: Final = 8


@dataclass(frozen=True)
class Foreseen:
    """One copy that would be made; `copy.size` is what would be moved."""

    copy: Copy
    #: The tier of this node that has the bytes already, as far as this user knows; `here` for a set; empty: none.
    place: str
    #: Something of that name is there already; None: nobody may say.
    replaces: bool | None


def foresee(client: Client, copies: Sequence[Copy]) -> tuple[list[Foreseen], list[Failed]]:
    """Ask about each copy, and return what would be made and what would fail. Nothing is moved."""
    own = {copy.address: ", ".join(copy.tiers) for copy in _own(client, copies) if copy.whole}

    def ask(copy: Copy) -> Foreseen | Failed:
        try:
            return _ASK[copy.kind](client, copy, own)
        except CachedError as error:
            return Failed(copy.source, copy.to, error)

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="foresee") as pool:
        found = list(pool.map(ask, copies))
    good = [each for each in found if isinstance(each, Foreseen)]
    return good, [each for each in found if isinstance(each, Failed)]


def _own(client: Client, copies: Sequence[Copy]) -> list[wire.CopyView]:
    return client.list_copies() if any(copy.kind == "in" for copy in copies) else []


def _input(client: Client, copy: Copy, own: dict[str, str]) -> Foreseen:
    address, size = copy.source, copy.size
    if parse(address).generation is None or not size:  # one that was listed is known to be there
        view = client.stat_object(address)
        address, size = view.address, view.size
    found = msgspec.structs.replace(copy, size=size)
    return Foreseen(found, own.get(address, ""), os.path.lexists(copy.to))


def _output(client: Client, copy: Copy, _own: dict[str, str]) -> Foreseen:
    try:
        client.stat_object(copy.to)
    except NotFound:
        return Foreseen(copy, "", False)
    except Forbidden:  # who may write need not be let read
        return Foreseen(copy, "", None)
    return Foreseen(copy, "", True)


def _set(client: Client, copy: Copy, _own: dict[str, str]) -> Foreseen:
    name, _, path = copy.source.partition("/")
    path = path.rstrip("/")
    entries = [
        entry
        for entry in client.files(name)
        if not path or entry.path == path or entry.path.startswith(f"{path}/")
    ]
    if path and not entries:
        raise NotFound(f"{copy.source}: there is no such file in {name}", hint=f"cached files {name}")
    found = msgspec.structs.replace(copy, size=sum(entry.size for entry in entries if entry.kind == "file"))
    return Foreseen(found, "here" if is_here(client, name) else "", os.path.lexists(copy.to))


_ASK: Final = {"in": _input, "out": _output, "set": _set}
