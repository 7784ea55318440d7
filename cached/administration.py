"""What an administrator asks without a running daemon: the configuration in force, and the cluster's key files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cached import config as configuration
from cached import machine
from cached.config import Config
from cached.errors import BadConfig
from cached.peers import authority


def load(path: Path | None, instance: str, flags: Mapping[str, str]) -> Config:
    """Return the configuration in force. Raises `BadConfig`."""
    return configuration.load(
        path, env=os.environ, flags=flags, instance=instance, host=machine.hostname(), user=machine.user()
    )


def config_show(path: Path | None, instance: str, flags: Mapping[str, str]) -> Sequence[tuple[str, str, str]]:
    """Return key, value and source of every setting."""
    return configuration.show(load(path, instance, flags))


def cluster_init(path: Path) -> dict[str, Any]:
    """Make a new cluster's authority and its key file. Raises `CachedError` when the file exists."""
    return {"key_file": str(path), "cluster": authority.init_cluster(path)}


def cluster_admit(path: Path, domains: Sequence[str]) -> str:
    """Return the key file of a new node, made by the authority in `path`."""
    return authority.admit(path, domains=domains or ("",)).text.decode()


def cluster_revoke(path: Path, node_ids: Sequence[str]) -> int:
    """Revoke nodes in the authority's key file; return how many are revoked in all."""
    return authority.revoke(path, node_ids)


def cluster_show(path: Path | None, config_path: Path | None, instance: str) -> dict[str, Any]:
    """Describe a key file, the configured one when `path` is None."""
    found = path or load(config_path, instance, {}).cluster.key_file
    if found is None:
        raise BadConfig("no key file is configured: this node is alone on an authority of its own")
    return authority.describe(found)
