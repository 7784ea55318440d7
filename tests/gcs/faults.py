"""Faults that tests script, each for the requests it matches and as often as it says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.gcs.request import Request

Match = Callable[[Request], bool] | Mapping[str, Any] | None

#: kind -> what happens. `at` counts bytes of this one answer's (or upload's) body; half of it when not given.
KINDS = {
    "reset": "the connection is reset before the request is looked at",
    "cut": "(at) an answer ends early and the connection with it; an upload is read so far and then dropped",
    "flip": "(at) one byte of the body is another one",
    "stall": "(at, seconds=3600) the body pauses; other answers pause before they begin",
    "lost_reply": "everything is done, and no answer is sent",
    "replace_between": "(data) the object is overwritten after this request has its answer and before it is sent",
    "no_hash": "the answer has no x-goog-hash and no crc32c",
    "no_generation": "the answer has neither header nor field with the generation",
    "revoke": "(user) the user loses all rights on the bucket, before this request is looked at",
}
#: Besides these any HTTP status is a kind, such as "503" and "429" (retry_after).


@dataclass(eq=False)
class Fault:
    """One scripted fault. `times` None means always. `done` counts how often it happened."""

    kind: str
    match: Match = None
    times: int | None = 1
    args: dict[str, Any] = field(default_factory=dict)
    done: int = 0

    @property
    def ends(self) -> bool:
        """Whether nothing else can happen to the request."""
        return self.kind.isdigit() or self.kind == "reset"

    def wants(self, request: Request) -> bool:
        if self.times is not None and self.done >= self.times:
            return False
        if self.match is None:
            return True
        if callable(self.match):
            return bool(self.match(request))
        return all(getattr(request, key) == value for key, value in self.match.items())

    def at(self, size: int) -> int:
        return min(size, int(self.args.get("at", size // 2)))


class Faults:
    """The faults that are still to come, in the order in which they were added."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        #: Every fault ever added.
        self.added: list[Fault] = []
        self._lock = threading.Lock()
        self.changed = threading.Condition()

    def add(self, kind: str, match: Match = None, times: int | None = 1, **args: Any) -> Fault:
        """Script a fault; `match` is a function of the request or a mapping of request fields to values."""
        if kind not in KINDS and not (kind.isdigit() and len(kind) == 3):
            raise ValueError(f"no such fault: {kind}; there are {', '.join(KINDS)} and HTTP statuses")
        fault = Fault(kind, match, times, args)
        with self._lock:
            self._faults.append(fault)
            self.added.append(fault)
        return fault

    def number(self, fault: Fault) -> int:
        """The fault's place in `added`."""
        return self.added.index(fault)

    def clear(self) -> None:
        """No more faults; stalls that are under way end."""
        with self._lock:
            self._faults.clear()
        with self.changed:
            self.changed.notify_all()

    def take(self, request: Request) -> dict[str, Fault]:
        """The faults for this request by kind."""
        taken: dict[str, Fault] = {}
        with self._lock:
            for fault in self._faults:
                if fault.kind not in taken and fault.wants(request):
                    fault.done += 1
                    taken[fault.kind] = fault
                    if fault.ends:
                        break
        return taken

    def stall(self, fault: Fault) -> None:
        """Wait out a stall, or until the faults are cleared."""
        with self.changed:
            self.changed.wait_for(lambda: fault not in self._faults, timeout=fault.args.get("seconds", 3600))


def steps(body: memoryview, faults: dict[str, Fault]) -> Iterator[memoryview | bytes | Fault]:
    """The pieces of a body as the faults let it out; a stall is yielded where it happens, a cut ends it all."""
    position = 0
    here = [faults[kind] for kind in ("flip", "stall", "cut") if kind in faults]
    for fault in sorted(here, key=lambda each: each.at(len(body))):
        at = max(position, fault.at(len(body)))
        yield body[position:at]
        position = at
        if fault.kind == "flip" and at < len(body):
            yield bytes([body[at] ^ 0xFF])
            position += 1
        elif fault.kind != "flip":
            yield fault
    yield body[position:]
