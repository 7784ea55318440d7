"""Threads in which the blocking client runs: bounded, with a time limit a request, asked again while patience lasts."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final, TypeVar

from cached.addresses import Address, Prefix
from cached.critical import to_the_end
from cached.errors import Busy, OriginUnavailable
from cached.origin import waiting
from cached.origin.accounts import Accounts
from cached.origin.failures import Failed, refusal, translate
from cached.origin.retry import FIRST, Patience
from cached.origin.turns import Turns
from cached.origin.values import OriginStats

if TYPE_CHECKING:
    from google.cloud.storage import Client

T = TypeVar("T")
#: One blocking request with the client of the account.
Call = Callable[["Client"], T]
#: Bytes per second: a connection slower than this is given up.
SLOWEST: Final = 64 * 1024


class Lanes:
    """Runs requests, at most `threads` at once; bulk ones leave a quarter of the threads to questions.

    The accounts that are asked with take turns, and none of them has all bulk ones: a user whose files hang while they
    are sent, or who reads thousands of objects at once, keeps nobody else waiting.

    `timeout` (seconds) is for each step of a connection; a request may take twice that, and as long as its bytes need
    at `SLOWEST`. `patience` (seconds) is how long a request is repeated without progress, from `first_wait` on.
    """

    def __init__(
        self,
        accounts: Accounts,
        stats: OriginStats,
        *,
        threads: int,
        timeout: float,
        patience: float,
        first_wait: float = FIRST,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self.timeout = timeout
        self.stats = stats
        self._accounts = accounts
        self._patience = patience
        self._first_wait = first_wait
        self._dice = dice
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="origin")
        self._slots = Turns(threads)
        bulk = max(1, threads - max(1, threads // 4))
        self._bulk = Turns(bulk, max(1, bulk - max(1, bulk // 4)))
        self._loading = asyncio.Lock()
        self._loaded = False
        self._closed = False

    async def ask(
        self,
        kind: str,
        call: Call[T],
        about: Address | Prefix,
        *,
        token: str | None,
        size: int = 0,
        moved: Callable[[], int] = lambda: 0,
    ) -> T:
        """Make a request again and again until it is answered.

        `moved` says how many bytes have come so far: progress renews patience. Raises what `refusal` makes of it.
        """
        patience, before = self.patience(), moved()
        while True:
            try:
                return await self.once(kind, call, token=token, size=size)
            except Failed as error:
                failed = error
            await self.pause(failed, patience, about, moved=moved() - before)
            before = moved()

    def bulk(self, token: str | None) -> AbstractAsyncContextManager[None]:
        """Give the right to move many bytes, which bounds the memory that they take."""
        return self._bulk.turn(token)

    def patience(self) -> Patience:
        """Return a new budget of waiting."""
        return Patience(self._patience, time.monotonic(), first=self._first_wait)

    async def pause(
        self, failed: Failed, patience: Patience, about: Address | Prefix, *, moved: int = 0
    ) -> None:
        """Wait before the next attempt; raises the error for the caller when there shall be none."""
        if not failed.transient:
            raise refusal(failed, about)
        seconds = patience.wait(time.monotonic(), self._dice(), moved=moved)
        if seconds is None:
            raise OriginUnavailable(
                f"{about}: Cloud Storage does not answer: {failed.text}, {patience.failures} times",
                hint="try again later; is the network up, and the endpoint right?",
            )
        self.stats.retried(failed.cause)
        waiting.tell(f"Cloud Storage does not answer ({failed.text}), and is asked again")
        await asyncio.sleep(seconds)

    async def once(self, kind: str, call: Call[T], *, token: str | None, size: int = 0) -> T:
        """Make one request in a thread; raises `Failed`."""
        await self._load()
        limit = 2 * self.timeout + size / SLOWEST
        async with self._slots.turn(token):
            self.stats.asked(kind)
            try:
                async with asyncio.timeout(limit):
                    answer = await self._thread(lambda: self._made(call, token))
            except TimeoutError:
                stalled = Failed("stall", f"no answer within {limit:.0f} s", transient=True)
                self._note(stalled)
                raise stalled from None
            except Failed as failed:
                self._note(failed)
                raise
        self.stats.answered()
        waiting.tell("")
        return answer

    def _note(self, failed: Failed) -> None:
        if failed.transient:
            self.stats.silent(failed.text)
        else:
            self.stats.answered()

    async def work(self, call: Callable[[], T]) -> T:
        """Run other blocking work in a thread of its own; when cancelled, wait until it has ended all the same."""
        return await to_the_end(self._thread(call))

    async def close(self) -> None:
        """End the threads once they are done with what they do, at most for the time limit of a request."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._accounts.close()

    async def _thread(self, call: Callable[[], T]) -> T:
        if self._closed:
            raise Busy("the node is stopping", hint="ask another node")
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def _made(self, call: Call[T], token: str | None) -> T:
        """In the thread: nothing of the library, neither its exceptions nor what they hold, leaves it."""
        try:
            return call(self._accounts.client(token))
        except Exception as error:
            failed = translate(error, token)
            if failed is None:
                raise
        raise failed

    async def _load(self) -> None:
        """Load the library outside of all time limits."""
        if not self._loaded:
            async with self._loading:
                if not self._loaded:
                    await self._thread(self._accounts.load)
                    self._loaded = True
