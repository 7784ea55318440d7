"""Who fetches which block: the home of a block lets one node at a time read it from the origin.

Everybody else who asks waits for the bytes. A claim lives as long as it is renewed, but not for ever; the next asker
gets it when its holder has been silent for `PATIENCE` seconds, has had it for `LONGEST`, says that it failed, or is
done. No node has more than `EACH` of them, so that the others find some whatever it does.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

#: Seconds without renewal after which a claim is free for the next asker.
PATIENCE: Final = 5.0
#: Seconds for which a claim may be renewed. Who does not have a part by then has lost it to the next asker.
LONGEST: Final = 60.0
#: Claims that a home keeps at a time, and those of one node among them.
LIMIT: Final = 65_536
EACH: Final = 1024

#: Block `index` of the object with this digest.
Block = tuple[str, int]


class Answer(msgspec.Struct, frozen=True):
    """What an asker is told.

    `fetch`: read it from the origin and hand it over under `claim`. `wait`: somebody else does; ask again in
    `seconds` at the latest, that is when the claim would end. `alone`: the home can keep no more claims, none of this
    asker, or has waited for it in vain; read it without handing it over.
    """

    what: Literal["fetch", "wait", "alone"]
    claim: str = ""
    seconds: float = 0.0


class _Claim(msgspec.Struct):
    block: Block
    holder: str
    ends: float
    #: When no renewal helps any more.
    latest: float


class Claims:
    """The claims that a home has given out; `now` is any clock in seconds that only goes forward."""

    def __init__(
        self,
        *,
        patience: float = PATIENCE,
        longest: float = LONGEST,
        limit: int = LIMIT,
        each: int = EACH,
    ) -> None:
        self._patience = patience
        self._longest = longest
        self._limit = limit
        self._each = each
        self._by_id: dict[str, _Claim] = {}
        self._by_block: dict[Block, str] = {}
        self._of_holder: dict[str, set[str]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def ask(self, block: Block, asker: str, claim: str, now: float) -> Answer:
        """Let `asker` (a node) fetch a block under the new id `claim`, or tell it to wait.

        A holder that asks again has lost its claim or its answer: it goes on under the new id, and the old one ends.
        What it had for too long it does not get once more.
        """
        held = self._held(block, now)
        if held is not None and held.holder != asker:
            return Answer("wait", seconds=max(0.0, held.ends - now))
        latest = self._latest(block, asker, now)
        if latest <= now or (held is None and not self._has_room(asker, now)):
            return Answer("alone")
        self._end_block(block)
        self._by_block[block] = claim
        self._by_id[claim] = _Claim(block, asker, min(now + self._patience, latest), latest)
        self._of_holder.setdefault(asker, set()).add(claim)
        return Answer("fetch", claim, self._patience)

    def renew(self, claim: str, holder: str, now: float) -> bool:
        """Say that the holder is still at it; False: the claim is not its own, or has ended."""
        found = self._own(claim, holder)
        if found is None or found.ends <= now:
            return False
        found.ends = min(now + self._patience, found.latest)
        return True

    def accepts(self, claim: str, holder: str) -> Block | None:
        """Return the block that `holder` may hand over under a claim; None when it is not its own.

        A claim that ran out and was given to nobody else is as good as ever.
        """
        found = self._own(claim, holder)
        return None if found is None else found.block

    def done(self, claim: str, holder: str) -> Block | None:
        """End a claim whose bytes are here; return the block for those who wait, None if it was not its own."""
        return self._finish(claim, holder)

    def failed(self, claim: str, holder: str) -> Block | None:
        """End a claim whose holder gave up: the next asker gets the block. None if it was not its own."""
        return self._finish(claim, holder)

    def expire(self, now: float) -> list[Block]:
        """End all claims that were not renewed in time; return their blocks, for those who wait."""
        ended = [(claim, found.block) for claim, found in self._by_id.items() if found.ends <= now]
        for _, block in ended:
            self._end_block(block)
        return [block for _, block in ended]

    def leave(self, holder: str) -> list[Block]:
        """End the claims of a node that is gone; return their blocks, for those who wait."""
        blocks = [self._by_id[claim].block for claim in self._of_holder.get(holder, ())]
        for block in blocks:
            self._end_block(block)
        return blocks

    def holder(self, block: Block, now: float) -> str | None:
        """Return the node that fetches a block now."""
        held = self._held(block, now)
        return None if held is None else held.holder

    def _latest(self, block: Block, asker: str, now: float) -> float:
        """Return until when an asker may have a block: a claim under a new id lasts no longer than the old one.

        Who had it to the very end has it again when it was free for others for as long.
        """
        claim = self._by_block.get(block)
        mine = None if claim is None else self._by_id[claim]
        if mine is None or mine.holder != asker or mine.ends < min(now, mine.latest):
            return now + self._longest
        return mine.latest if now < mine.latest + self._longest else now + self._longest

    def _has_room(self, asker: str, now: float) -> bool:
        if len(self._of_holder.get(asker, ())) >= self._each or len(self._by_id) >= self._limit:
            self.expire(now)
        return len(self._of_holder.get(asker, ())) < self._each and len(self._by_id) < self._limit

    def _own(self, claim: str, holder: str) -> _Claim | None:
        found = self._by_id.get(claim)
        return found if found is not None and found.holder == holder else None

    def _held(self, block: Block, now: float) -> _Claim | None:
        claim = self._by_block.get(block)
        if claim is None or self._by_id[claim].ends <= now:
            return None
        return self._by_id[claim]

    def _finish(self, claim: str, holder: str) -> Block | None:
        found = self._own(claim, holder)
        if found is None:
            return None
        self._end_block(found.block)
        return found.block

    def _end_block(self, block: Block) -> None:
        claim = self._by_block.pop(block, None)
        if claim is None:
            return
        holder = self._by_id.pop(claim).holder
        self._of_holder[holder].discard(claim)
        if not self._of_holder[holder]:
            del self._of_holder[holder]
