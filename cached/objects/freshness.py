"""For how long a user who was let in is not asked about again: never, unless the node's owner opened a window.

What is remembered is what Cloud Storage answered one user about one object. Cloud Storage itself takes about a minute
until a withdrawn permission is felt everywhere ("Cloud Storage consistency"), so a window of up to a minute is no
weaker in that; but within it an object that was replaced elsewhere is read as it was.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

#: Answers remembered, at most.
LIMIT: Final = 65_536

_Object = tuple[str, str]
#: User, object, and the generation that was asked about; None: whichever is current.
_Key = tuple[str, _Object, int | None]


class Freshness:
    """Answers of Cloud Storage that are still good; `now` is any clock in seconds that only goes forward."""

    def __init__(self, window: float, limit: int = LIMIT) -> None:
        #: Seconds for which an answer is remembered.
        self.window = window
        self._limit = limit
        self._allowed: OrderedDict[_Key, tuple[int, float]] = OrderedDict()
        self._by_object: dict[_Object, set[_Key]] = {}
        self._forgotten: dict[_Object, float] = {}
        self._floor = float("-inf")

    def __len__(self) -> int:
        return len(self._allowed)

    def remember(
        self, user: str, bucket: str, name: str, generation: int, asked: float, *, current: bool = True
    ) -> None:
        """Remember that `user` was allowed `generation`; `asked`: when the question left, since when it may be old.

        `current`: the question was about the object as it is, not about a pinned generation. An answer to a question
        asked before the object was forgotten is not remembered.
        """
        about = (bucket, name)
        if self.window <= 0 or asked <= max(self._floor, self._forgotten.get(about, float("-inf"))):
            return
        for pinned in (generation, None) if current else (generation,):
            self._keep((user, about, pinned), generation, asked)

    def allowed(
        self, user: str, bucket: str, name: str, now: float, generation: int | None = None
    ) -> int | None:
        """Return the generation that `user` may read without a question; None: Cloud Storage has to be asked.

        With `generation`, only that one; without, the one that was current when the user was allowed it.
        """
        key = (user, (bucket, name), generation)
        found = self._allowed.get(key)
        if found is None:
            return None
        if found[1] <= now:
            self._drop(key)
            return None
        return found[0]

    def forget(self, bucket: str, name: str, now: float) -> None:
        """Forget all answers about an object: it was written, deleted or found to have changed."""
        about = (bucket, name)
        for key in list(self._by_object.get(about, ())):
            self._drop(key)
        if self.window <= 0:
            return
        if len(self._forgotten) >= self._limit:
            self._forgotten = {one: at for one, at in self._forgotten.items() if at + self.window > now}
        if len(self._forgotten) >= self._limit:
            self._floor = now
            self._forgotten.clear()
        self._forgotten[about] = now

    def clear(
        self, now: float, *, user: str | None = None, bucket: str | None = None, prefix: str = ""
    ) -> None:
        """Forget all answers, or only those to one user, or about one bucket's objects that begin with `prefix`.

        Questions that are under way count as asked before: their answers are not remembered either.
        """
        self._floor = now
        for key in list(self._allowed):
            who, about, _ = key
            if user in (None, who) and bucket in (None, about[0]) and about[1].startswith(prefix):
                self._drop(key)

    def _keep(self, key: _Key, generation: int, asked: float) -> None:
        self._allowed[key] = (generation, asked + self.window)
        self._allowed.move_to_end(key)
        self._by_object.setdefault(key[1], set()).add(key)
        while len(self._allowed) > self._limit:
            self._drop(next(iter(self._allowed)))

    def _drop(self, key: _Key) -> None:
        del self._allowed[key]
        others = self._by_object[key[1]]
        others.discard(key)
        if not others:
            del self._by_object[key[1]]
