"""Nodes' links for measurements: a network namespace for each node, a bridge in one more, rates in both directions.

TCP's congestion control in there is cubic, as Linux comes, whatever the machine's own is: BBR gives connections that
share a line very different parts of it, and for minutes (ADR 43). Needs root and iproute2. Nothing outside of these
namespaces is touched, but that a congestion control which only root may use is allowed to all meanwhile: no namespace
may have another one. Leaving takes all of it away; namespaces of a program that was killed go when the next one
begins, what it allowed stays allowed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Final, Self

#: Bytes that pass at once: what the kernel sends between two of its ticks, and some packets at least.
_TICKS_PER_SECOND: Final = 250
_SMALLEST_BURST: Final = 16 * 1024
#: Seconds that a packet may wait for its turn, and bytes that may wait on the slowest line, as at a switch: with ten
#: connections on 8 Mbit/s and 50 ms alone, every tenth packet was lost.
_WAIT: Final = 0.05
_SMALLEST_QUEUE: Final = 256 * 1024
#: Namespaces are called this, the process id of their program, and the node's number.
_NAME: Final = "cached-bench-"
_CONGESTION: Final = Path("/proc/sys/net/ipv4/tcp_congestion_control")
_THERE: Final = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
_ALLOWED: Final = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")


def controls() -> list[str]:
    """Return TCP's congestion controls that this machine's kernel has."""
    return _THERE.read_text().split()


def congestion() -> str:
    """Return the congestion control that is usual with Linux, or this machine's where its kernel lacks that."""
    return "cubic" if "cubic" in controls() else _CONGESTION.read_text().strip()


class Network:
    """Namespaces with one interface each, all on one bridge. Use it as a context manager.

    `rates` are Mbit/s, of node 0, 1, ...; 0 leaves a node's link as fast as it is. `control` is TCP's congestion
    control, one of `controls`.
    """

    def __init__(self, rates: list[float], control: str) -> None:
        self._rates = rates
        self._control = control
        self._prefix = f"{_NAME}{os.getpid()}"
        self._made: list[str] = []
        self._allowed = ""

    def __enter__(self) -> Self:
        _remove_leftovers()
        try:
            self._allow()
            hub = self._namespace("hub")
            _ip("-n", hub, "link", "add", "br0", "type", "bridge")
            _ip("-n", hub, "link", "set", "br0", "up")
            for number, rate in enumerate(self._rates):
                self._link(hub, number, rate)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def address(self, number: int) -> str:
        """Return a node's address; it means something inside these namespaces alone."""
        return f"10.213.{number // 200}.{number % 200 + 1}"

    def inside(self, number: int) -> list[str]:
        """Return what to put before a command to run it on a node; the process stays the one that was started."""
        return ["ip", "netns", "exec", f"{self._prefix}-{number}"]

    def change(self, number: int, rate: float) -> None:
        """Give a node's link another rate while it is in use."""
        for space, device in self._ends(number):
            _shape(space, device, rate, "change")

    def _ends(self, number: int) -> list[tuple[str, str]]:
        """Return the two interfaces of a link: what leaves through them is what it carries."""
        return [(f"{self._prefix}-{number}", "eth0"), (f"{self._prefix}-hub", f"n{number}")]

    def _allow(self) -> None:
        allowed = _ALLOWED.read_text()
        if self._control not in allowed.split():
            _ALLOWED.write_text(f"{allowed.strip()} {self._control}")
            self._allowed = allowed

    def _namespace(self, name: str) -> str:
        full = f"{self._prefix}-{name}"
        _ip("netns", "add", full)
        self._made.append(full)
        _ip("-n", full, "link", "set", "lo", "up")
        _ip("netns", "exec", full, "sh", "-c", f"echo {self._control} > {_CONGESTION}")
        return full

    def _link(self, hub: str, number: int, rate: float) -> None:
        name, port = self._namespace(str(number)), f"n{number}"
        _ip("link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", port, "netns", hub)
        _ip("-n", name, "address", "add", f"{self.address(number)}/16", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", hub, "link", "set", port, "master", "br0", "up")
        if rate:
            for space, device in self._ends(number):
                _shape(space, device, rate, "add")

    def _remove(self) -> None:
        for name in reversed(self._made):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", name)
        self._made.clear()
        if self._allowed:
            _ALLOWED.write_text(self._allowed)
            self._allowed = ""


def _shape(space: str, device: str, rate: float, verb: str) -> None:
    burst = max(_SMALLEST_BURST, round(rate * 1e6 / 8 / _TICKS_PER_SECOND * 1.5))
    queue = max(_SMALLEST_QUEUE, round(rate * 1e6 / 8 * _WAIT))
    limits = ("rate", f"{rate}mbit", "burst", str(burst), "limit", str(queue + burst))
    subprocess.run(["tc", "-n", space, "qdisc", verb, "dev", device, "root", "tbf", *limits], check=True)


def _remove_leftovers() -> None:
    """Delete the namespaces of programs that are gone."""
    listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
    for line in listed.splitlines():
        name = line.split()[0]
        pid = name.removeprefix(_NAME).partition("-")[0]
        if name.startswith(_NAME) and not Path("/proc", pid).exists():
            _ip("netns", "delete", name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
