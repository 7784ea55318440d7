"""Who has what open on this node: counted in memory, and in the pin log so that a killed daemon finds it again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from cached.leases.pin import Pin, Process
from cached.storage.pinlog import PinLog


class Pins:
    """Open readers by content.

    A pin is *counted* while a connection of this daemon's life holds it, and *recovered* when an earlier daemon had
    it: a recovered pin holds until its process ends.
    """

    def __init__(self, log: PinLog, alive: Callable[[Process], bool]) -> None:
        self._log = log
        self._alive = alive
        self._counted: Counter[Pin] = Counter()
        self._recovered: set[Pin] = set()
        self._by_content: Counter[str] = Counter()
        #: Called with the content id when its last pin is gone.
        self.on_free: Callable[[str], None] = lambda content: None

    def load(self) -> None:
        """Take over the pins of an earlier daemon whose processes still run."""
        for pin in self._log.open():
            if self._alive(pin.process):
                self._recovered.add(pin)
                self._by_content[pin.content] += 1
            else:
                self._log.remove(pin)

    def hold(self, pin: Pin) -> None:
        """Count one more open of `pin`."""
        if not self._counted[pin] and pin not in self._recovered:
            self._log.add(pin)
        self._counted[pin] += 1
        self._by_content[pin.content] += 1

    def release(self, pin: Pin) -> None:
        """Count one open less."""
        if self._counted[pin] <= 0:
            return
        self._counted[pin] -= 1
        if not self._counted[pin]:
            del self._counted[pin]
            if pin not in self._recovered:
                self._log.remove(pin)
        self._drop(pin.content)

    def holds(self, set_id: str, content: str, process: Process) -> bool:
        """Tell whether that process has the set open, or had it open under an earlier daemon."""
        pin = Pin(set_id, content, process)
        return pin in self._recovered or self._counted[pin] > 0

    def pinned(self, content: str) -> bool:
        """Tell whether anybody has the content open."""
        return self._by_content[content] > 0

    def count(self) -> int:
        """Return the number of opens held, recovered ones included."""
        return self._by_content.total()

    def sweep(self) -> None:
        """Let go of recovered pins whose process has ended."""
        for pin in [pin for pin in self._recovered if not self._alive(pin.process)]:
            self._recovered.discard(pin)
            if not self._counted[pin]:
                self._log.remove(pin)
            self._drop(pin.content)

    def close(self) -> None:
        """Close the log; open pins stay in it for the next daemon."""
        self._log.close()

    def _drop(self, content: str) -> None:
        self._by_content[content] -= 1
        if self._by_content[content] <= 0:
            del self._by_content[content]
            self.on_free(content)


def process_of(pid: int, proc: Path = Path("/proc")) -> Process | None:
    """Return the process that has `pid` now, with its start time; None when there is none."""
    try:
        stat = (proc / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else Process(pid, int(fields[19]))


def is_alive(process: Process) -> bool:
    """Tell whether that very process still runs."""
    return process_of(process.pid) == process
