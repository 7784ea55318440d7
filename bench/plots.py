"""Pictures of measured rows: a line for each thing measured, both axes by powers of ten."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib import pyplot as plt

from bench.report import Figure, Row

#: What the lower axis counts, by the name of the row.
_AXES: Final = {
    "bytes": "MB in one file",
    "files": "files of 4 KB",
    "nodes": "nodes that receive 16 MiB at 20 Mbit/s",
}


def draw(rows: Mapping[str, Row], folder: Path) -> None:
    """Write `growth-NAME.svg` for each row; figures are called `NUMBER...: LINE`."""
    folder.mkdir(parents=True, exist_ok=True)
    mpl.rcParams["svg.hashsalt"] = "cached"  # the same figures make the same file
    for name, (_, found) in rows.items():
        picture, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
        for line, points in _lines(found).items():
            axes.plot(*zip(*points, strict=True), marker="o", label=line)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(_AXES[name])
        axes.grid(visible=True, which="both", alpha=0.2)
        axes.legend(frameon=False)
        picture.savefig(folder / f"growth-{name}.svg", metadata={"Date": None})
        plt.close(picture)


def _lines(found: list[Figure]) -> dict[str, list[tuple[float, float]]]:
    lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for one in found:
        at, _, line = one.what.partition(": ")
        lines[f"{line} ({one.unit})"].append((float(at.split()[0]), one.value))
    return dict(lines)
