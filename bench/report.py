"""Figures with their targets beside them, and the table and JSON of all of them: what every measurement prints.

rows = {"N = 5": ({"size": 48 << 20}, [Figure("slowest node", 1.04, "x", 1.08)])}
show(rows, load, ("libtorrent",), as_json=False)
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal

#: What a measurement means by its parameters, and its figures.
Row = tuple[dict[str, Any], list["Figure"]]

_CONGESTION: Final = Path("/proc/sys/net/ipv4/tcp_congestion_control")


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


def medians(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the median of each value over several runs of one row."""
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def document(
    rows: dict[str, Row], load: Sequence[float], libraries: Iterable[str] = (), programs: Iterable[str] = ()
) -> dict[str, Any]:
    """Return everything as JSON; `load` is what the machine's load was before, `libraries` are distributions
    and `programs` commands whose versions matter.
    """
    return {
        "machine": machine() | {"load_before": list(load), "load_after": list(os.getloadavg())},
        "versions": {"python": platform.python_version()}
        | {name: _version(name) for name in libraries}
        | {name: _program(name) for name in programs},
        "rows": {
            name: {
                "parameters": parameters,
                "figures": [asdict(one) | {"holds": one.holds} for one in found],
            }
            for name, (parameters, found) in rows.items()
        },
    }


def show(
    rows: dict[str, Row],
    load: Sequence[float],
    libraries: Iterable[str] = (),
    programs: Iterable[str] = (),
    *,
    as_json: bool,
) -> None:
    """Print all rows: their tables, or the document."""
    if as_json:
        json.dump(document(rows, load, libraries, programs), sys.stdout, indent=2)
        print()
        return
    for name, (_, found) in rows.items():
        print(table(name, found))


def machine() -> dict[str, Any]:
    """Return what this machine is."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processors": os.cpu_count(),
        "processor": model[0].partition(":")[2].strip() if model else platform.machine(),
        "system": platform.platform(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "congestion_control": _CONGESTION.read_text().strip() if _CONGESTION.exists() else "",
    }


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _program(command: str) -> str:
    """Return the first line of what a program says of its version; empty when there is none."""
    if shutil.which(command) is None:
        return ""
    said = subprocess.run([command, "--version"], check=False, capture_output=True, text=True)
    return next(iter((said.stdout + said.stderr).splitlines()), "")
