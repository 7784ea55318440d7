"""A figure with its target beside it, and the table and JSON of all of them."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Final, Literal

_LIBRARIES: Final = ("google-cloud-storage", "google-crc32c", "msgspec", "redis")


@dataclass(frozen=True)
class Figure:
    """One result. `bound` says on which side of `target` it should be; without one it only explains the others."""

    what: str
    value: float
    unit: str = ""
    target: float | None = None
    bound: Literal["<=", ">=", "=="] = "<="

    @property
    def holds(self) -> bool | None:
        """Say whether the target is met; None where there is none."""
        if self.target is None:
            return None
        if self.bound == "<=":
            return self.value <= self.target
        return self.value >= self.target if self.bound == ">=" else self.value == self.target


def table(row: str, found: Iterable[Figure]) -> str:
    """Return the lines of one row."""
    lines = [row]
    for one in found:
        target = "" if one.target is None else f"{one.bound} {one.target:g}"
        word = {None: "", True: "holds", False: "MISSED"}[one.holds]
        lines.append(f"  {one.what:<62}{one.value:>12.6g} {one.unit:<6}{target:>10}  {word}".rstrip())
    return "\n".join(lines)


def document(rows: dict[str, tuple[dict[str, Any], list[Figure]]], load: list[float]) -> dict[str, Any]:
    """Return everything as JSON; `load` is what the machine's load was before."""
    return {
        "machine": {
            "processors": os.cpu_count(),
            "system": platform.platform(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "load_before": load,
            "load_after": list(os.getloadavg()),
        },
        "versions": {"python": platform.python_version(), "redis-server": _redis()}
        | {name: version(name) for name in _LIBRARIES},
        "rows": {
            name: {
                "parameters": parameters,
                "figures": [asdict(one) | {"holds": one.holds} for one in found],
            }
            for name, (parameters, found) in rows.items()
        },
    }


def _redis() -> str:
    if shutil.which("redis-server") is None:
        return ""
    said = subprocess.run(["redis-server", "--version"], check=True, capture_output=True, text=True).stdout
    return said.split("v=")[-1].split()[0]
