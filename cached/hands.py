"""Threads that read what users hand over: a file that never answers costs its user, and nobody else.

A descriptor may lead to a file system that hangs (FUSE, a dead server). A thread that reads from it cannot be stopped.
So each user has a few threads and no more, nobody waits for one that is silent, and the process ends without them.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from cached.errors import Busy, TimedOut
from cached.packets import close_all

T = TypeVar("T")

#: Reads of one user at a time, those that hang included.
EACH: Final = 4
#: Seconds without a sign of life after which a read is given up.
SILENCE: Final = 60.0


class Hold:
    """What a thread shares with who waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = False
        #: When it last showed a sign of life.
        self.beat = time.monotonic()

    def go_on(self) -> bool:
        """Show a sign of life; False: nobody waits any more."""
        self.beat = time.monotonic()
        return not self._left

    @contextlib.contextmanager
    def with_others(self) -> Iterator[None]:
        """Touch what belongs to who waits, or get `TimedOut` when nobody does."""
        with self._lock:
            if self._left:
                raise TimedOut("nobody waits for this any more")
            yield

    def leave(self) -> None:
        """Wait no more: from now on the thread touches nothing of others."""
        with self._lock:
            self._left = True


class Hands:
    """The threads of all users."""

    def __init__(self, each: int = EACH, silence: float = SILENCE) -> None:
        self._each = each
        self._silence = silence
        self._gates: dict[str, asyncio.Semaphore] = {}

    async def read(self, user: str, work: Callable[[Hold], T]) -> T:
        """Run `work` in a thread of this user's and return its result.

        It calls `go_on` again and again, and reaches for what is others' inside `with_others`. Raises `TimedOut` when
        it is silent for too long, `Busy` when all threads of the user have been silent for so long.
        """
        gate = self._gates.setdefault(user, asyncio.Semaphore(self._each))
        try:
            async with asyncio.timeout(self._silence):
                await gate.acquire()
        except TimeoutError:
            raise Busy(
                f"{self._each} files of this user are being read and do not answer",
                hint="is their file system alive?",
            ) from None
        return await self._watched(gate, work)

    async def _watched(self, gate: asyncio.Semaphore, work: Callable[[Hold], T]) -> T:
        loop, hold = asyncio.get_running_loop(), Hold()
        result: asyncio.Future[T] = loop.create_future()

        def done(value: T | None, error: BaseException | None) -> None:
            gate.release()
            if result.done():
                return
            if error is not None:
                result.set_exception(error)
            else:
                result.set_result(value)  # type: ignore[arg-type]

        def run() -> None:
            value, failed = None, None
            try:
                value = work(hold)
            except BaseException as error:  # noqa: BLE001 - handed to who waits
                failed = error
            with contextlib.suppress(RuntimeError):  # the loop has ended, and whoever waited
                loop.call_soon_threadsafe(done, value, failed)

        threading.Thread(target=run, name="hand", daemon=True).start()
        try:
            while not result.done():
                left = hold.beat + self._silence - time.monotonic()
                if left <= 0:
                    raise TimedOut(
                        f"the file gave nothing for {self._silence:.0f} s", hint="is its file system alive?"
                    )
                await asyncio.wait({result}, timeout=left)
            return result.result()
        finally:
            hold.leave()
            result.cancel()


class Closing:
    """Closes what users handed over, without waiting for it.

    `close` asks a FUSE file system whether it has anything to say (FUSE_FLUSH), whoever closes, and waits for the
    answer: one that does not answer would stop the event loop for ever. So each user has a thread for it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[str, deque[Sequence[int]]] = {}
        #: Descriptors that are not closed yet, by user.
        self._left: Counter[str] = Counter()

    def left(self, user: str) -> int:
        """Return how many descriptors of a user are not closed yet."""
        return self._left[user]

    def close(self, user: str, descriptors: Sequence[int]) -> None:
        """Have descriptors closed, and do not wait for it."""
        if not descriptors:
            return
        with self._lock:
            self._left[user] += len(descriptors)
            queue = self._queues.get(user)
            if queue is not None:
                queue.append(descriptors)
                return
            self._queues[user] = deque([descriptors])
        threading.Thread(target=self._run, args=(user,), name="closing", daemon=True).start()

    def _run(self, user: str) -> None:
        while True:
            with self._lock:
                queue = self._queues[user]
                if not queue:
                    del self._queues[user]
                    return
                descriptors = queue.popleft()
            close_all(descriptors)
            with self._lock:
                self._left[user] -= len(descriptors)
                if not self._left[user]:
                    del self._left[user]


#: Of this process, whichever way the descriptors came.
CLOSING: Final = Closing()
