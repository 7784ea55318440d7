"""How one peer is reached, and when to try again; a rule without clock or sockets."""

from __future__ import annotations

from dataclasses import dataclass

#: Seconds before the first and the longest wait after a failed dial.
FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0
#: Seconds without a sign of life after which a peer may be dead: it gives one every two seconds.
SILENCE = 5.0


@dataclass(slots=True)
class Route:
    """The address of a peer, whether it can be dialled, and how often that failed lately."""

    address: str = ""
    reachable: bool = True
    failures: int = 0
    retry_at: float = 0.0
    #: When the last sign of life came.
    heard: float = float("-inf")
    #: When it answered a call last.
    answered: float = float("-inf")

    def failed(self, now: float) -> None:
        """Note a failed dial at `now` (seconds of any steady clock): each doubles the wait."""
        if now < self.retry_at:
            return  # another dial, begun before the wait was set, failed too
        self.retry_at = now + min(LONGEST_WAIT, FIRST_WAIT * 2.0**self.failures)
        self.failures = min(self.failures + 1, 16)

    def alive(self, now: float = float("-inf")) -> None:
        """Note a sign of life at `now`: the next dial need not wait."""
        self.failures = 0
        self.retry_at = 0.0
        self.heard = max(self.heard, now)

    def silent(self, now: float) -> bool:
        """Tell whether nothing has been heard of the peer lately."""
        return now - self.heard > SILENCE

    def moved(self, address: str) -> None:
        """Note the address that the peer gives; a new one is tried at once."""
        if address and address != self.address:
            self.address = address
            self.alive()

    def wait(self, now: float) -> float:
        """Return the seconds until the next dial is allowed; 0 when it is."""
        return max(0.0, self.retry_at - now)


def split_address(address: str) -> tuple[str, int]:
    """Split `host:port` or `[v6]:port`; raises `ValueError` when it is neither."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{address!r} is not host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


def join_address(host: str, port: int) -> str:
    """Return `host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
