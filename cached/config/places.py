"""Where things lie when nobody says: as root, as a user, under systemd, and for one instance of several."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path

from cached.errors import UsageError

_INSTANCE = "{instance}"
_TMP = "/tmp/cached"  # noqa: S108  (the daemon checks whose it is)
_SHM = "/dev/shm/cached"  # noqa: S108
_ROOT = {
    "node.state_dir": "/var/lib/cached",
    "node.runtime_dir": "/run/cached",
    "store.disk": "/var/cache/cached",
    "store.memory": _SHM,
}
#: systemd's variable for each of our directories; it replaces the default.
_SYSTEMD = {
    "node.state_dir": "STATE_DIRECTORY",
    "node.runtime_dir": "RUNTIME_DIRECTORY",
    "store.disk": "CACHE_DIRECTORY",
}


def default_dirs(env: Mapping[str, str], uid: int, instance: str) -> dict[str, tuple[str, str]]:
    """Return directory keys with default and source.

    An instance's name is appended to each, but not to what systemd gives: that is the unit's own already, and
    all that it may write to.
    """
    found = _ROOT if uid == 0 else _user_dirs(env, uid)
    suffix = f"-{instance}" if instance else ""
    placed = {key: (f"{path}{suffix}", "default") for key, path in found.items()}
    for key, variable in _SYSTEMD.items():
        given = env.get(variable, "").split(":")[0]
        if given:
            placed[key] = (given, f"environment {variable}")
    return placed


def _user_dirs(env: Mapping[str, str], uid: int) -> dict[str, str]:
    own = home(env, uid)
    runtime = env.get("XDG_RUNTIME_DIR")
    return {
        "node.state_dir": f"{env.get('XDG_STATE_HOME') or f'{own}/.local/state'}/cached",
        "node.runtime_dir": f"{runtime}/cached" if runtime else f"{_TMP}-{uid}",
        "store.disk": f"{env.get('XDG_CACHE_HOME') or f'{own}/.cache'}/cached",
        "store.memory": f"{_SHM}-{uid}",
    }


def home(env: Mapping[str, str], uid: int) -> str:
    """Return the user's home directory; a private one under /tmp for a user who has none."""
    if env.get("HOME"):
        return env["HOME"]
    try:
        return pwd.getpwuid(uid).pw_dir
    except KeyError:
        return f"{_TMP}-{uid}"


def default_files(env: Mapping[str, str], uid: int) -> list[Path]:
    """Return the configuration files that are read when none is named, the weakest first."""
    own = env.get("XDG_CONFIG_HOME") or f"{home(env, uid)}/.config"
    return [Path("/etc/cached/config.toml"), Path(own) / "cached" / "config.toml"]


def runtime_dirs_to_try(env: Mapping[str, str]) -> list[Path]:
    """Return the directories in which a client looks for a daemon's sockets, in order.

    Raises `UsageError` for a `{instance}` in `CACHED_RUNTIME_DIR`: nobody said which one is meant.
    """
    if _INSTANCE in env.get("CACHED_RUNTIME_DIR", ""):
        raise UsageError(
            f"CACHED_RUNTIME_DIR is {env['CACHED_RUNTIME_DIR']}, and no instance is named",
            hint="say which: cached --instance I ..., or set CACHED_RUNTIME_DIR to the directory of its sockets",
        )
    runtime = env.get("XDG_RUNTIME_DIR")
    tried = [
        env.get("CACHED_RUNTIME_DIR"),
        _ROOT["node.runtime_dir"],
        f"{runtime}/cached" if runtime else None,
        f"{_TMP}-{os.getuid()}",
    ]
    return [Path(each) for each in tried if each]
