"""Why one side of a match refuses: the conjuncts that fail, with the values of what they name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cached.matching import engine
from cached.matching.ads import NODE_DEFAULT, SET_DEFAULT, SET_DEFAULT_MEMORY
from cached.matching.parsed import Condition, Named, Parsed, Side
from cached.units import format_size

MAX_REASONS = 8
_MAX_SHOWN = 80
_MAX_TEXT = 300
#: What is said of the tests of space that hold unless somebody writes others: what is needed, and what is free.
_ROOM: dict[str, str] = {
    SET_DEFAULT: "needs {needed} of disk, {free} free",
    SET_DEFAULT_MEMORY: "needs {needed} of memory, {free} free",
    NODE_DEFAULT: "{free} of disk free, the set needs {needed}",
}
#: Bytes that one stands for, of the attributes that are sizes.
_UNITS = {
    **dict.fromkeys(("diskusage", "totaldisk", "disk"), 1 << 10),
    **dict.fromkeys(("memory", "detectedmemory"), 1 << 20),
    **dict.fromkeys(
        ("diskusagebytes", "totaldiskbytes", "capacitybytes", "memorybytes", "memorytierbytes"), 1
    ),
}
_OTHER: dict[Side, Side] = {"set": "node", "node": "set"}


def refusal(side: Side, own: Parsed, other: Parsed, outcome: Any) -> list[str]:
    """Return one line for each conjunct of `own`'s requirements that does not hold against `other`.

    `outcome` is what the requirements came to as a whole.
    """
    lines = []
    for condition in own.conditions:
        value = engine.evaluate(condition.tree, own.ad, other.ad)
        if not engine.holds(value):
            lines.append(f"{side} side: {_failure(side, condition, value, own, other)}")
    if not lines:
        lines.append(f"{side} side: the requirements of {own.label(side)} are {shown(outcome)}")
    return lines[:MAX_REASONS]


def _failure(side: Side, condition: Condition, value: Any, own: Parsed, other: Parsed) -> str:
    if room := _room(condition, own, other):
        return room
    text = _short(condition.text, _MAX_TEXT)
    if value is engine.UNDEFINED:
        missing = [line for named in condition.named if (line := _missing(side, named, own, other))]
        if missing:
            return "; ".join(missing) + ("" if condition.is_bare else f", in: {text}")
    values = [] if condition.is_bare else list(_values(condition, own, other))
    return f"{text} is {shown(value)}" + (f": {', '.join(values)}" if values else "")


def _room(condition: Condition, own: Parsed, other: Parsed) -> str:
    """Say in words that there is too little space; empty for another condition, or where it is not known."""
    words, sizes = _ROOM.get(condition.text, ""), {}
    for reference, tree in condition.named if words else ():
        value, unit = engine.evaluate(tree, own.ad, other.ad), _UNITS.get(reference.name.lower())
        if unit and type(value) is int:
            sizes["needed" if reference.name.lower().startswith("diskusage") else "free"] = value * unit
    if len(sizes) < 2:
        return ""
    said = {name: format_size(size) for name, size in sizes.items()}
    if said["needed"] == said["free"]:
        said = {name: f"{size} bytes" for name, size in sizes.items()}
    return words.format(**said)


def _values(condition: Condition, own: Parsed, other: Parsed) -> Iterator[str]:
    for reference, tree in condition.named:
        value, unit = engine.evaluate(tree, own.ad, other.ad), _UNITS.get(reference.name.lower())
        size = f" ({format_size(value * unit)})" if unit and type(value) is int else ""
        yield f"{reference.text} is {shown(value)}{size}"


def _missing(side: Side, named: Named, own: Parsed, other: Parsed) -> str:
    """Say that the attribute is undefined, and who lacks it; empty when it has a value."""
    reference, tree = named
    if engine.evaluate(tree, own.ad, other.ad) is not engine.UNDEFINED:
        return ""
    name, us, them = reference.name.lower(), own.label(side), other.label(_OTHER[side])
    if reference.scope == "my":
        why = "" if name in own.names else f"{us} has no such attribute"
    elif reference.scope == "target":
        why = "" if name in other.names else f"{them} has no such attribute"
    else:
        why = "" if name in own.names | other.names else f"neither {us} nor {them} has such an attribute"
    return f"{reference.text} is undefined" + (f" ({why})" if why else "")


def shown(value: Any) -> str:
    """Return a value as ClassAds write it, on one line and not too long."""
    if value is engine.UNDEFINED:
        return "undefined"
    if value is engine.ERROR:
        return "an error"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + _short(value, _MAX_SHOWN) + '"'
    if isinstance(value, list):
        return _short("{" + ", ".join(shown(item) for item in value[:20]) + "}", _MAX_SHOWN)
    return _short(str(value), _MAX_SHOWN)


def _short(text: str, limit: int) -> str:
    line = "".join(character if character.isprintable() else " " for character in text[:limit])
    return line if len(text) <= limit else line[:-1] + "…"
