"""Options of a create as keywords, in the units that people write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from cached import wire
from cached.units import parse_duration

#: Keywords that are read by units, and the options that they stand for.
_DURATIONS: Final = {"lease": "lease_seconds", "min_lease": "min_lease_seconds"}


def options(base: wire.CreateOptions | None, wishes: Mapping[str, Any]) -> wire.CreateOptions:
    """Return `base` with what is wished for besides; raises `UsageError`, and `TypeError` for an unknown keyword."""
    facts = msgspec.structs.asdict(base or wire.CreateOptions())
    for keyword, value in wishes.items():
        name = _DURATIONS.get(keyword, keyword)
        if name not in facts or (name != keyword and name in wishes):
            raise TypeError(
                f"create() takes no option {keyword!r}" + (f" besides {name!r}" if name in facts else "")
            )
        read = _READERS.get(keyword)
        facts[name] = value if read is None or value is None else read(value)
    return wire.convert(facts, wire.CreateOptions)


def _replicas(value: Any) -> Any:
    return -1 if value == "all" else value


def _methods(value: Any) -> Any:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "lease": parse_duration,
    "min_lease": parse_duration,
    "replicas": _replicas,
    "methods": _methods,
}
