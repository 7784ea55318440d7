"""Configuration: read once at the start, then frozen.

`load` reads it, `Config` holds it, `show` says where each value came from, `runtime_dirs_to_try` tells
clients where a daemon's sockets may be. Clients need no more than that last one, so the rest is imported when
it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cached.config.places import runtime_dirs_to_try

if TYPE_CHECKING:
    from cached.config.layers import load, show
    from cached.config.values import Config

__all__ = ["Config", "load", "runtime_dirs_to_try", "show"]

_LATER = {"Config": "values", "load": "layers", "show": "layers"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
