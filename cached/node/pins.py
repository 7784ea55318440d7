"""Who has what open on this node: counted in memory, and in the pin log so that a killed daemon finds it again."""

from __future__ import annotations

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
        #: Opens by pin, and by content; only what is above 0 is in them.
        self._counted: dict[Pin, int] = {}
        self._recovered: set[Pin] = set()
        self._by_content: dict[str, int] = {}
        #: Called with the content id when its last pin is gone.
        self.on_free: Callable[[str], None] = lambda content: None

    def load(self) -> None:
        """Take over the pins of an earlier daemon whose processes still run."""
        for pin in self._log.open():
            if self._alive(pin.process):
                self._recovered.add(pin)
                self._by_content[pin.content] = self._by_content.get(pin.content, 0) + 1
            else:
                self._log.remove(pin)

    def hold(self, pin: Pin) -> None:
        """Count one more open of `pin`; on return a daemon that is killed finds it again."""
        count = self._counted.get(pin, 0)
        if not count and pin not in self._recovered:
            self._log.add(pin)
        self._counted[pin] = count + 1
        self._by_content[pin.content] = self._by_content.get(pin.content, 0) + 1

    def release(self, pin: Pin) -> None:
        """Count one open less."""
        left = self._counted.get(pin, 0) - 1
        if left < 0:
            return
        if left:
            self._counted[pin] = left
        else:
            del self._counted[pin]
            if pin not in self._recovered:
                self._log.remove(pin)
        self._drop(pin.content)

    def holds(self, set_id: str, content: str, process: Process) -> bool:
        """Tell whether that process has the set open, or had it open under an earlier daemon."""
        pin = Pin(set_id, content, process)
        return pin in self._recovered or pin in self._counted

    def pinned(self, content: str) -> bool:
        """Tell whether anybody has the content open."""
        return content in self._by_content

    def count(self) -> int:
        """Return the number of opens held, recovered ones included."""
        return sum(self._by_content.values())

    def sweep(self) -> None:
        """Let go of recovered pins whose process has ended, and write down what was let go since the last time."""
        for pin in [pin for pin in self._recovered if not self._alive(pin.process)]:
            self._recovered.discard(pin)
            if pin not in self._counted:
                self._log.remove(pin)
            self._drop(pin.content)
        self._log.flush()

    def close(self) -> None:
        """Close the log; open pins stay in it for the next daemon."""
        self._log.close()

    def _drop(self, content: str) -> None:
        left = self._by_content[content] - 1
        if left:
            self._by_content[content] = left
        else:
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
