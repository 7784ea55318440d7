"""Reading the configuration: flags > environment > user file > /etc/cached/config.toml > defaults.

Each layer gives raw values with their source; the strongest one is expanded, read and kept with that source.
What is not known is an error, wherever it stands.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from cached.config.keys import ATTRIBUTES, KEYS, Reader, nearest
from cached.config.places import default_dirs, default_files, home
from cached.config.template import Template
from cached.config.values import Config, expression
from cached.errors import BadConfig, UsageError


class _Raw(NamedTuple):
    value: Any
    source: str


#: `section.key` to what a layer says about it.
_Layer = dict[str, _Raw]


def load(
    path: Path | None,
    *,
    env: Mapping[str, str],
    flags: Mapping[str, str],
    instance: str,
    host: str,
    user: str,
) -> Config:
    """Return the configuration of the daemon `instance` on `host`, run by `user`; raises `BadConfig`.

    `path` names the only file to read; without it the user's file and /etc/cached/config.toml are read where
    they exist. `flags` maps `section.key` to text, as `env` maps `CACHED_<SECTION>_<KEY>`.
    """
    uid = os.geteuid()
    raw = _defaults(env, uid, instance)
    for file in [path] if path else [each for each in default_files(env, uid) if each.exists()]:
        raw.update(_file(file))
    _update(raw, _environment(env))
    _update(raw, {_known(key, "flag"): _Raw(value, "flag") for key, value in flags.items()})
    template = Template({"host": host, "user": user, "instance": instance}, env, home(env, uid))
    return _build({key: _expanded(key, each, template) for key, each in raw.items()})


def show(config: Config) -> list[tuple[str, str, str]]:
    """Return `section.key`, value as written, and source, for every value in force."""
    return [(key, config.written[key], source) for key, source in config.sources.items()]


def _defaults(env: Mapping[str, str], uid: int, instance: str) -> _Layer:
    port = 0 if instance else 7400
    plain: dict[str, Any] = {
        "node.name": "{host}-{instance}" if instance else "{host}",
        "node.listen": f"0.0.0.0:{port}",
        "node.bittorrent": f"0.0.0.0:{port and port + 1}",
        "node.advertise": "",
        "store.capacity": "500GB",
        "store.memory_capacity": "8GB",
        "cluster.key_file": "",
        "cluster.peers": [],
        "cluster.mdns": True,
        "cluster.user_domain": "",
        "replication.replicas": "all",
        "replication.methods": ["bittorrent", "direct"],
        "replication.encryption": "tls",
        "replication.upload_limit": "",
        "replication.download_limit": "",
        "policy.requirements": "",
        "policy.max_lease": "30d",
        "policy.default_lease": "1d",
        "policy.quota": "200GB",
        "policy.admins": ["root"],
        "origin.buckets": {},
        "origin.readers": 4,
        "origin.threads": 16,
        "origin.endpoint": "",
        "origin.credentials": "",
        "objects.memory": "1GB",
        "objects.disk": "10GB",
        "objects.block": "8MiB",
        "objects.redis": "",
        "objects.freshness": "0s",
        "objects.sharing": "permission",
    }
    found = {key: _Raw(value, "default") for key, value in plain.items()}
    found.update({key: _Raw(*placed) for key, placed in default_dirs(env, uid, instance).items()})
    return {f"{section}.{key}": found[f"{section}.{key}"] for section, keys in KEYS.items() for key in keys}


def _file(path: Path) -> _Layer:
    import tomllib  # only the daemon and `config show` read files

    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadConfig(f"cannot read {path}: {error.strerror}", hint="name another with --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path} is not TOML: {error}") from error
    layer: _Layer = {}
    for section, table in tables.items():
        if section not in KEYS and section != ATTRIBUTES:
            raise BadConfig(
                f"{path}: unknown section [{section}]", hint=nearest(section, [*KEYS, ATTRIBUTES])
            )
        if not isinstance(table, dict):
            raise BadConfig(f"{path}: {section} is not a section", hint=f"write [{section}]")
        layer.update(
            {_known(f"{section}.{key}", str(path)): _Raw(value, str(path)) for key, value in table.items()}
        )
    return layer


def _environment(env: Mapping[str, str]) -> _Layer:
    layer: _Layer = {}
    for name, value in sorted(env.items()):
        section, _, key = name.removeprefix("CACHED_").partition("_")
        section = section.lower()
        if name.startswith("CACHED_") and key and (section in KEYS or section == ATTRIBUTES):
            source = f"environment {name}"
            layer[_known(f"{section}.{key if section == ATTRIBUTES else key.lower()}", source)] = _Raw(
                value, source
            )
    return layer


def _known(key: str, where: str) -> str:
    """Return the key if there is such a one; raises `BadConfig` that names the nearest."""
    section, _, name = key.partition(".")
    if section == ATTRIBUTES:
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise BadConfig(
                f"{where}: {name!r} is not the name of an attribute", hint="letters, digits, underscores"
            )
    elif name not in KEYS.get(section, {}):
        every = [f"{each}.{name}" for each, names in KEYS.items() for name in names]
        raise BadConfig(f"{where}: unknown key {key}", hint=nearest(key, every))
    return key


def _update(raw: _Layer, layer: _Layer) -> None:
    """Lay a layer over another; attribute names are compared as ClassAds do, without case."""
    for key, each in layer.items():
        same = [old for old in raw if old.lower() == key.lower()]
        raw[same[0] if same else key] = each


def _expanded(key: str, raw: _Raw, template: Template) -> _Raw:
    try:
        return _Raw(template.expand(raw.value), raw.source)
    except UsageError as error:
        raise BadConfig(f"{key}: {error.message} (from {raw.source})", hint=error.hint, key=key) from error


def _build(raw: _Layer) -> Config:
    sections = {
        section: {key: _read(raw, f"{section}.{key}", read) for key, read in keys.items()}
        for section, keys in KEYS.items()
    }
    prefix = f"{ATTRIBUTES}."
    attributes = {
        key.removeprefix(prefix): _read(raw, key, expression) for key in raw if key.startswith(prefix)
    }
    if sections["policy"]["default_lease"] > sections["policy"]["max_lease"]:
        raise BadConfig(
            "policy.default_lease is longer than policy.max_lease", hint="shorten it, or raise max_lease"
        )
    return msgspec.convert(
        {
            **sections,
            ATTRIBUTES: attributes,
            "sources": {key: each.source for key, each in raw.items()},
            "written": {key: _written(each.value) for key, each in raw.items()},
        },
        Config,
    )


def _read(raw: _Layer, key: str, read: Reader) -> Any:
    value, source = raw[key]
    try:
        return read(value)
    except UsageError as error:
        raise BadConfig(f"{key}: {error.message} (from {source})", hint=error.hint, key=key) from error


def _written(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(each) for each in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}={'+'.join(each)}" for key, each in value.items())
    return str(value).lower() if isinstance(value, bool) else str(value)
