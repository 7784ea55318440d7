"""What is to be shown, row by row: the settings and their targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from bench.report import Figure
from bench.swarm.run import Setting

_MIB: Final = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table. `event` names what happens meanwhile, see `events`."""

    setting: Setting
    #: Most that there should be of each figure.
    targets: Mapping[str, float] = field(default_factory=dict)
    event: str = ""

    def figures(self, found: dict[str, float]) -> list[Figure]:
        """Return what was found, the targets beside it."""
        return [Figure(key, value, UNITS.get(key, ""), self.targets.get(key)) for key, value in found.items()]


def _most(times: float, copies: float | None = None, redundant: float | None = None) -> dict[str, float]:
    wanted = {"times bound": times, "copies": copies, "redundant": redundant}
    return {key: value for key, value in wanted.items() if value is not None}


#: Units of the figures.
UNITS: Final = {
    "seconds": "s",
    "bound": "s",
    "times bound": "x",
    "wire": "x",
    "start": "s",
    "end": "s",
    "cpu": "s/GiB",
    "MB/s": "",
}


def _all(receivers: int, size: int, rate: float, share: float) -> Row:
    setting = Setting(receivers=receivers, size=size, rate=rate, source_rate=rate * share)
    if receivers > 16:
        return Row(setting=setting, targets=_most(1.15, 1.05, 0.03))
    return Row(setting=setting, targets=_most(1.08, 1.05 if share > 1 else 1.03, 0.01))


def _late() -> Row:
    setting = Setting(receivers=10, size=48 * _MIB, rate=10, source_rate=10)
    return Row(setting=setting, targets=_most(1.15, 1.10), event="late")


def _fault(event: str) -> Row:
    setting = Setting(receivers=8, size=64 * _MIB, rate=12, source_rate=12)
    return Row(setting=setting, targets=_most(1.25), event=event)


#: Receivers times rate is kept where two processors are not the limit, and lines are not so slow that a switch's queue
#: of 256 KiB holds more than a quarter of a second; 32 receivers are too many for either on two processors.
MATRIX: Final[dict[str, Row]] = {
    "5, source 1x": _all(5, 100 * _MIB, 20, 1),
    "5, source 0.5x": _all(5, 100 * _MIB, 20, 0.5),
    "5, source 4x": _all(5, 100 * _MIB, 20, 4),
    "5, source 1x, 300 MiB": _all(5, 300 * _MIB, 30, 1),
    "5, source 1x, 48 MiB": _all(5, 48 * _MIB, 20, 1),
    "10, source 1x": _all(10, 100 * _MIB, 10, 1),
    "10, source 0.5x": _all(10, 48 * _MIB, 10, 0.5),
    "10, source 4x": _all(10, 100 * _MIB, 10, 4),
    "16, source 1x": _all(16, 100 * _MIB, 10, 1),
    "16, source 0.5x": _all(16, 48 * _MIB, 10, 0.5),
    "16, source 4x": _all(16, 100 * _MIB, 10, 4),
    "32, source 1x": _all(32, 48 * _MIB, 5, 1),
    "10 at random times": _late(),
    "8, one leaves": _fault("leave"),
    "8, one is stopped": _fault("stop"),
    "8, one gets 10x slower": _fault("slow"),
}
