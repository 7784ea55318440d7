"""Named fault points: where a test may kill the process, fail a system call, or make it slow.

The environment variable `CACHED_FAULT` holds a comma-separated plan of `NAME[@HIT]:ACTION`:

    create.renamed:kill          SIGKILL to the process itself at every hit, that is the first
    create.renamed@3:kill        at the third hit only
    ingest.written:full          raise OSError(ENOSPC)
    ingest.written:error         raise OSError(EIO)
    offer.sent:sleep=2.5         block the calling thread for 2.5 seconds

Without a plan a point costs one truth test. Modules declare their points at import
(`RENAMED = declare("create.renamed")`), so that a test can walk all of them through `registered()`.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from typing import NamedTuple

from cached.errors import UsageError


class _Fault(NamedTuple):
    action: str
    seconds: float
    #: The one hit that counts, from 1; 0 for every hit.
    at: int


_declared: set[str] = set()
_plan: dict[str, list[_Fault]] = {}
_hits: dict[str, int] = {}
_lock = threading.Lock()


def declare(name: str) -> str:
    """Make a fault point known and return its name."""
    _declared.add(name)
    return name


def registered() -> frozenset[str]:
    """Return the names of all fault points that the modules imported so far have declared."""
    return frozenset(_declared)


def point(name: str) -> None:
    """Do what the plan says for this point: nothing, in production."""
    if _plan:
        _hit(name)


def arm(spec: str) -> None:
    """Replace the plan by `spec` (form: see above), forget all hits; empty disarms. Raises `UsageError`."""
    plan: dict[str, list[_Fault]] = {}
    for item in filter(None, (part.strip() for part in spec.split(","))):
        name, fault = _parse(item)
        plan.setdefault(name, []).append(fault)
    with _lock:
        _hits.clear()
        _plan.clear()
        _plan.update(plan)


def _parse(item: str) -> tuple[str, _Fault]:
    where, _, what = item.partition(":")
    name, _, at = where.partition("@")
    action, _, seconds = what.partition("=")
    try:
        fault = _Fault(action, float(seconds or 0), int(at or 0))
    except ValueError:
        fault = _Fault("", 0, 0)
    if not name or action not in ("kill", "error", "full", "sleep") or not fault.action:
        raise UsageError(
            f"fault plan {item!r} is not NAME[@HIT]:ACTION",
            hint="the actions are kill, error, full and sleep=SECONDS",
        )
    return name, fault


def _hit(name: str) -> None:
    faults = _plan.get(name)
    if not faults:
        return
    with _lock:
        _hits[name] = count = _hits.get(name, 0) + 1
    for fault in faults:
        if fault.at in (0, count):
            _act(name, fault)


def _act(name: str, fault: _Fault) -> None:
    if fault.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.action == "sleep":
        time.sleep(fault.seconds)
    else:
        number = errno.ENOSPC if fault.action == "full" else errno.EIO
        raise OSError(number, f"{os.strerror(number)} (fault point {name})")


arm(os.environ.get("CACHED_FAULT", ""))
