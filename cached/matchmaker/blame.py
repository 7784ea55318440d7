"""Who is to blame when evaluating a pair killed the child, and what is remembered about it.

The requirements of one side were being evaluated. If they are as bad against the other ad's plain values
alone, they are guilty; else, if the other ad's own expressions are bad by themselves, that ad is; else only
the pair is refused. What is guilty is remembered by its expressions, not by the whole ad, so that a change
of free space does not clear it.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from cached.matching.ads import Ad, expr, is_expr

#: Guilty expressions remembered.
MAX_REMEMBERED = 4096

#: Evaluates an expression of the other ad and always agrees.
_TOUCH = "isUndefined(TARGET.{}) isnt 0"
#: How many of them one probe strings together.
_TOUCHES = 64


def fingerprint(ad: Ad) -> bytes:
    """Return a digest of the names and texts of an ad's expressions."""
    digest = blake2b(digest_size=16)
    for name in sorted(ad):
        if is_expr(ad[name]):
            digest.update(f"{name.lower()}\0{ad[name]['expr']}\0".encode("utf-8", "surrogatepass"))
    return digest.digest()


def plain_values(ad: Ad) -> Ad:
    """Return the ad without its expressions, always agreeing."""
    return {**{name: value for name, value in ad.items() if not is_expr(value)}, "Requirements": True}


def is_plain(ad: Ad) -> bool:
    """Say whether nothing but the ad's requirements is an expression."""
    return not any(is_expr(value) for name, value in ad.items() if name.lower() != "requirements")


def mentions_requirements(ad: Ad) -> bool:
    """Say whether an expression of the ad could evaluate the other side's requirements."""
    return any("requirements" in value["expr"].lower() for value in ad.values() if is_expr(value))


def probes(ad: Ad) -> list[Ad]:
    """Return ads which, matched with `ad`, evaluate each of its expressions for itself."""
    names = [name for name, value in ad.items() if is_expr(value)]
    parts = [names[begin : begin + _TOUCHES] for begin in range(0, len(names), _TOUCHES)]
    return [{"Requirements": expr(" && ".join(map(_TOUCH.format, part)))} for part in parts]


class Memory:
    """What is known to be guilty, and how it showed; forgets the oldest first."""

    def __init__(self) -> None:
        self._known: dict[bytes, str] = {}

    def add(self, fingerprint: bytes, how: str) -> None:
        """Remember an ad's expressions."""
        while len(self._known) >= MAX_REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[fingerprint] = how

    def how(self, fingerprint: bytes) -> str | None:
        """Return how these expressions misbehaved, or `None`."""
        return self._known.get(fingerprint)


def label(ad: dict[str, Any], side: str) -> str:
    """Name an ad for people."""
    name = ad.get("CacheName" if side == "set" else "Name")
    return f"{side} {name[:80]}" if isinstance(name, str) and name[:80].isprintable() else f"the {side}"
