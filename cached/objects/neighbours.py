"""The other nodes, as the home of a block or a reader of objects asks them.

On the link between nodes `object.block` asks the home of a block for it, `object.give` hands a block over, and
`object.renew` keeps claims alive; the stream `object.part` carries the bytes of one part; `object.changed` and
`object.clear` tell everybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import msgspec

from cached.errors import CachedError, PeerUnreachable
from cached.objects.entry import copy_name
from cached.objects.key import ObjectKey

_Value = TypeVar("_Value")

BLOCK: Final = "object.block"
GIVE: Final = "object.give"
RENEW: Final = "object.renew"
CHANGED: Final = "object.changed"
CLEAR: Final = "object.clear"
PART: Final = "object.part"

#: Bytes per second below which another node counts as stuck.
_SLOWEST: Final = 128 << 10
#: Seconds that handing a part over may take, and giving a claim back.
_HANDOVER: Final = 60.0
_RELEASE: Final = 3.0
#: Seconds that a home lets an asker wait for bytes that somebody else fetches, at most.
LONGEST_WAIT: Final = 10.0


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One part of an object: what is asked for, given and sent. The parts are those of `home.layout`."""

    key: ObjectKey
    #: Of the whole object, in bytes.
    size: int
    #: Of a part, in bytes; the last one may be shorter.
    block: int
    index: int

    @property
    def number(self) -> int | None:
        """Its number; None when it is the whole object."""
        return None if self.size <= self.block else self.index

    @property
    def name(self) -> str:
        """What its copy is called."""
        return copy_name(self.key, self.number)

    @property
    def start(self) -> int:
        """Where it begins in the object."""
        return self.index * self.block

    @property
    def stop(self) -> int:
        """Where it ends in the object."""
        return min(self.size, self.start + self.block)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `object.block`."""

    part: Part
    #: For whom: the asking node has made sure that Cloud Storage lets this user read the object.
    user: str
    #: Seconds that the asker would wait for somebody else's fetch.
    wait: float = 0.0
    #: The node that was said to have it, and did not give it.
    failed: str = ""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the home of a block says.

    `have`: read it from `node`. `fetch`: read it from the origin, and hand it over under `claim`. `wait`: somebody
    else is at it, ask again. `alone`: read it from the origin, and keep it to yourself.
    """

    what: Literal["have", "fetch", "wait", "alone"]
    claim: str = ""
    node: str = ""


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `object.give`: the sender has the part and would send it; or (`failed`) gives its claim back."""

    part: Part
    claim: str
    crc32c: int = 0
    failed: bool = False
    #: For whom, and for which scope, it was fetched.
    user: str = ""
    scope: str = ""


class Renewed(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `object.renew`: claims that the sender still works at."""

    claims: list[str]


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `object.changed`: an object was written, or is gone."""

    bucket: str
    name: str
    #: What is there now; 0: nothing.
    generation: int


class Clear(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `object.clear`: copies that a user has no use for any more."""

    user: str
    #: Empty: all buckets.
    bucket: str = ""
    prefix: str = ""
    #: Only copies of this scope; empty: of all.
    scope: str = ""
    #: Only say what would go.
    dry_run: bool = False


class Cleared(msgspec.Struct, frozen=True, kw_only=True):
    """What went."""

    entries: int
    bytes: int


class PartWanted(msgspec.Struct, frozen=True, kw_only=True):
    """Query of the stream `object.part`."""

    part: Part
    user: str


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """What a node can ask of the others."""

    #: This node's id.
    me: str
    #: Ids of the nodes that take part at present, this one among them; for a user of some domain.
    present: Callable[[str], list[str]]
    #: (seconds) -> whether a node was lost sight of that may have been at work so long ago.
    missing: Callable[[float], bool]
    #: Whether most nodes of the cluster are seen. Of parts that do not see each other, one at most is in touch.
    in_touch: Callable[[], bool]
    #: (node id, method, body, timeout) -> answer
    call: Callable[[str, str, Any, float], Awaitable[Any]]
    #: (node id, stream, query, longest silence)
    fetch: Callable[[str, str, dict[str, Any], float], AsyncIterator[bytes]]

    async def ask(self, node: str, asked: Asked) -> Answer:
        """Ask the home of a block. Raises `PeerUnreachable` or what the other node refused with."""
        return understood(await self.call(node, BLOCK, asked, asked.wait + 5.0), Answer)

    async def give(self, node: str, given: Given) -> None:
        """Tell the home of a block that it can be had here; returns when the home has it, or will not."""
        await self.call(node, GIVE, given, _RELEASE if given.failed else _HANDOVER)

    async def renew(self, node: str, claims: list[str]) -> None:
        """Say that claims are still worked at."""
        await self.call(node, RENEW, Renewed(claims=claims), 5.0)

    def bytes_of(self, node: str, wanted: PartWanted) -> AsyncIterator[bytes]:
        """Yield the bytes of a part that a node has."""
        return self.fetch(node, PART, msgspec.to_builtins(wanted), 10.0)

    async def tell(self, method: str, body: Any, timeout: float, user: str = "") -> dict[str, Any]:
        """Call all other nodes at once, or those that speak for a user; return the answers by node id.

        Who did not answer is there with the error.
        """
        others = [node for node in self.present(user) if node != self.me]
        answers = await asyncio.gather(
            *(self.call(node, method, body, timeout) for node in others), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, CachedError):
                raise answer
        return dict(zip(others, answers, strict=True))


def understood(answer: Any, kind: type[_Value]) -> _Value:
    """Read what another node answered. Raises `PeerUnreachable` for what is no answer."""
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        raise PeerUnreachable(f"another node's answer is not understood: {error}") from error


def longest(part: Part) -> float:
    """Return how many seconds a part may be on its way from another node, however steadily it drips."""
    return 15.0 + (part.stop - part.start) / _SLOWEST
