"""The matchmaker: verdicts on pairs of ads, whatever the ads contain.

Expressions come from users and from peers. They are checked for size and shape here, and evaluated in a
child process with limits on CPU time and memory; whatever breaks these is found, remembered and refused, and
all other pairs get their verdicts. Verdicts are remembered too, so that only changed ads are matched again.
This process never loads the ClassAd library.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import TypeVar

import msgspec

from cached.errors import BadExpression, Busy, CachedError, UsageError
from cached.matching import expressions
from cached.matching.ads import Ad
from cached.matching.untrusted import check_ad
from cached.matching.verdict import AGREED, Verdict
from cached.matchmaker import blame
from cached.matchmaker.process import Died, Process
from cached.matchmaker.protocol import CPU_LIMIT, NODE_SIDE, PARSING, Reply

_T = TypeVar("_T")

#: Pairs in one request to the child.
CHUNK = 256
#: Verdicts remembered, about 200 bytes each.
MAX_VERDICTS = 100_000
#: Checked ads remembered.
MAX_ADS = 8192
#: Ads remembered as the objects that they were given as.
MAX_GIVEN = 4096
#: Deaths of the child that nothing explains before a batch is given up.
_ATTEMPTS = 3

#: Stands for the digest of whatever has none.
_NO_JSON = bytes(16)

_Pair = tuple[bytes, bytes]


class _Known(msgspec.Struct, frozen=True):
    """An ad that has been checked: what is wrong with it, if anything, and the digest of its expressions."""

    ad: Ad
    fault: str
    fingerprint: bytes


class Matchmaker:
    """Checks expressions and matches ads; one for each daemon, for the tasks of one event loop.

    `allowed` are functions that the site permits besides the harmless (see `cached.matching.expressions`);
    one pair, one ad or one expression may take `cpu_seconds`.
    """

    def __init__(
        self,
        *,
        allowed: Collection[str] = (),
        max_verdicts: int = MAX_VERDICTS,
        cpu_seconds: float = CPU_LIMIT,
    ) -> None:
        self._allowed = frozenset(allowed)
        self._cpu_seconds = cpu_seconds
        self._max_verdicts = max_verdicts
        self._verdicts: dict[bytes, Verdict] = {}
        self._ads: dict[bytes, _Known] = {}
        #: Ads given lately, by their identity, and their digests.
        self._given: dict[int, tuple[Ad, bytes]] = {}
        self._guilty = blame.Memory()
        self._process: Process | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="matchmaker")
        self._closed = False
        self._encoder = msgspec.msgpack.Encoder(order="deterministic")
        #: Times that a child was started, for the node's counters.
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """Process id of the child, while there is one."""
        process = self._process
        return None if process is None else process.pid

    async def start(self) -> None:
        """Start the child now, rather than with the first question."""
        await self._run(self._child)

    async def close(self) -> None:
        """End the child; questions that are open fail with `Busy`."""
        self._closed = True
        process = self._process
        if process is not None:
            await asyncio.to_thread(process.end)  # its pipes stay open: the thread may be reading from them
        await asyncio.to_thread(self._thread.shutdown)
        if self._process is not None:
            self._process.close()
            self._process = None

    async def check(self, expression: str) -> None:
        """Raise `BadExpression`, quoting it, unless `expression` may be used as requirements or attribute."""
        expressions.check_text(expression, self._allowed)
        await self._run(lambda: self._check(expression))

    async def match(self, pairs: Sequence[tuple[Ad, Ad]]) -> list[Verdict]:
        """Return the verdict on each pair of a set's ad and a node's, in order.

        Ads are values: whoever gives one never changes it. Never raises for what an ad contains: a broken or
        hostile ad does not match, and the reason says so.
        """
        return await self._run(lambda: self._match(pairs)) if pairs else []

    async def _run(self, work: Callable[[], _T]) -> _T:
        if self._closed:
            raise Busy("the node is stopping")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # From here on everything runs in the matchmaker's own thread.

    def _child(self) -> Process:
        if self._closed:
            raise Busy("the node is stopping")
        if self._process is None:
            self._process = Process(self._cpu_seconds)
            self.starts += 1
        return self._process

    def _bury(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.close()

    def _check(self, expression: str) -> None:
        unexplained = 0
        while isinstance(outcome := self._child().check(expression), Died):
            self._bury()
            if outcome.guilty:
                raise expressions.refuse(expression, f"reading it {outcome.how}")
            unexplained += 1
            if unexplained == _ATTEMPTS:
                raise self._cannot_start(outcome)
        if outcome.error is not None:
            raise BadExpression(outcome.error[0], hint=outcome.error[1], expression=expression)

    def _match(self, pairs: Sequence[tuple[Ad, Ad]]) -> list[Verdict]:
        keys = [(self._digest(left), self._digest(right)) for left, right in pairs]
        verdicts: dict[_Pair, Verdict] = {}
        open_pairs: list[_Pair] = []
        for pair in dict.fromkeys(keys):
            known = self._verdicts.get(pair[0] + pair[1]) or self._foregone(pair)
            if known is None:
                open_pairs.append(pair)
            else:
                verdicts[pair] = known
        for begin in range(0, len(open_pairs), CHUNK):
            self._settle(open_pairs[begin : begin + CHUNK], verdicts)
        self._trim()
        return [verdicts[pair] for pair in keys]

    def _digest(self, ad: Ad) -> bytes:
        """Return the digest of an ad, checked when it is new."""
        given = self._given.get(id(ad))
        if given is not None and given[0] is ad:
            return given[1]
        found = self._hashed(ad)
        self._given[id(ad)] = (ad, found)
        if found not in self._ads:
            self._ads[found] = self._known(ad)
        return found

    def _hashed(self, ad: Ad) -> bytes:
        try:
            return blake2b(self._encoder.encode(ad), digest_size=16).digest()
        except (TypeError, ValueError, OverflowError, RecursionError):
            self._ads[_NO_JSON] = _Known({}, "it is not made of JSON values", b"")
            return _NO_JSON

    def _known(self, ad: Ad) -> _Known:
        try:
            checked = check_ad(ad, self._allowed)
            return _Known(checked, "", blame.fingerprint(checked))
        except UsageError as error:
            return _Known({}, error.message, b"")

    def _foregone(self, pair: _Pair) -> Verdict | None:
        """Return the verdict that needs no evaluation: a malformed ad, or expressions known to be guilty."""
        reasons = {}
        for side, digest in zip(("set", "node"), pair, strict=True):
            known = self._ads[digest]
            how = self._guilty.how(known.fingerprint) if known.ad else None
            if known.fault:
                reasons[side] = f"{side} side: the ad is refused: {known.fault}"
            elif how is not None:
                reasons[side] = (
                    f"{side} side: evaluating the expressions of {blame.label(known.ad, side)} {how}"
                )
        if not reasons:
            return None
        return Verdict(False, "set" not in reasons, "node" not in reasons, tuple(reasons.values()))

    def _settle(self, pairs: list[_Pair], verdicts: dict[_Pair, Verdict]) -> None:
        """Get verdicts on `pairs` from the child, whoever kills it on the way."""
        unexplained = 0
        while pairs:
            child = self._child()
            outcome = child.match(pairs, self._ads_of(pairs))
            if isinstance(outcome, Reply):
                for pair, answer in zip(pairs, outcome.verdicts, strict=True):
                    verdict = (
                        AGREED if answer is None else Verdict(False, answer[0], answer[1], tuple(answer[2]))
                    )
                    verdicts[pair] = self._verdicts[pair[0] + pair[1]] = verdict
                return
            self._bury()
            if outcome.guilty:
                self._convict(pairs, outcome, child.learned)
            else:
                unexplained += 1
                if unexplained == _ATTEMPTS:
                    raise self._cannot_start(outcome)
            pairs = self._still_open(pairs, verdicts)

    def _still_open(self, pairs: list[_Pair], verdicts: dict[_Pair, Verdict]) -> list[_Pair]:
        rest = []
        for pair in pairs:
            known = self._verdicts.get(pair[0] + pair[1]) or self._foregone(pair)
            if known is None:
                rest.append(pair)
            else:
                verdicts[pair] = known
        return rest

    def _ads_of(self, pairs: list[_Pair]) -> dict[bytes, Ad]:
        return {digest: self._ads[digest].ad for pair in pairs for digest in pair}

    def _convict(self, pairs: list[_Pair], died: Died, learned: list[bytes]) -> None:
        """Find and remember who killed the child at `died.position`."""
        if died.stage == PARSING:
            self._guilty.add(self._ads[learned[died.position]].fingerprint, died.how)
            return
        pair = pairs[died.position]
        acting, other = (pair[1], pair[0]) if died.stage == NODE_SIDE else pair
        suspect, context = self._ads[acting], self._ads[other]
        if self._acts_alone(suspect.ad, context.ad, died.stage):
            self._guilty.add(suspect.fingerprint, died.how)
        elif any(self._kills(probe, context.ad) for probe in blame.probes(context.ad)):
            self._guilty.add(context.fingerprint, died.how)
        else:
            at_node = died.stage == NODE_SIDE
            set_label = blame.label(self._ads[pair[0]].ad, "set")
            node_label = blame.label(self._ads[pair[1]].ad, "node")
            reason = f"{'node' if at_node else 'set'} side: matching {set_label} with {node_label} {died.how}"
            self._verdicts[pair[0] + pair[1]] = Verdict(False, at_node, not at_node, (reason,))

    def _acts_alone(self, suspect: Ad, context: Ad, stage: int) -> bool:
        if blame.is_plain(context) and not blame.mentions_requirements(suspect):
            return True
        values = blame.plain_values(context)
        return self._kills(values, suspect) if stage == NODE_SIDE else self._kills(suspect, values)

    def _kills(self, cache_set: Ad, node: Ad) -> bool:
        """Try a pair for evidence."""
        child = self._child()
        outcome = child.match([(b"set", b"node")], {b"set": cache_set, b"node": node})
        if isinstance(outcome, Reply):
            child.forget((b"set", b"node"))
            return False
        self._bury()
        return outcome.guilty

    def _trim(self) -> None:
        while len(self._verdicts) > self._max_verdicts:
            del self._verdicts[next(iter(self._verdicts))]
        if len(self._ads) > MAX_ADS:
            self._ads.clear()
            self._given.clear()
        elif len(self._given) > MAX_GIVEN:
            self._given.clear()

    def _cannot_start(self, died: Died) -> CachedError:
        return CachedError(
            f"the matchmaker's child process does not live: it {died.how}",
            hint="try: python -m cached.matchmaker.child 0",
        )
