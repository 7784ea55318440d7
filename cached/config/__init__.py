"""Configuration: read once at the start, then frozen.

`load` reads it, `Config` holds it, `show` says where each value came from, `runtime_dirs_to_try` tells
clients where a daemon's sockets may be.
"""

from __future__ import annotations

from cached.config.load import load, show
from cached.config.places import runtime_dirs_to_try
from cached.config.values import Config

__all__ = ["Config", "load", "runtime_dirs_to_try", "show"]
