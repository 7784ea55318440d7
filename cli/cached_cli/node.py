"""`cached daemon`, `cluster` and `config`: running a node, and making one.

These alone reach past the client, to the node's composition root, which is imported when one of them runs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from cached.errors import CachedError, UsageError

from cached_cli.command import CachedCommand, CachedGroup
from cached_cli.output import clean, emit_json, pairs, plain, table, talk
from cached_cli.session import Session, pass_session

_config_option = click.option(
    "--config",
    "config_path",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Configuration file, instead of the user's and the system's.",
)
_set_option = click.option(
    "--set",
    "settings",
    metavar="SECTION.KEY=VALUE",
    multiple=True,
    help="One setting, above all files and variables; may be repeated.",
)
_key_option = click.option(
    "--key-file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The cluster's key file.",
)


@click.command("daemon", cls=CachedCommand)
@_config_option
@_set_option
@pass_session
def daemon(session: Session, config_path: Path | None, settings: tuple[str, ...]) -> int:
    """Run this node in the foreground, until SIGTERM."""
    flags = _flags(session, settings)
    with _installed():
        from cached import daemon as node
    return node.main(config_path, session.instance, flags)


@click.group("cluster", cls=CachedGroup)
def cluster() -> None:
    """Make and inspect the key file that makes nodes members of one cluster."""


@cluster.command("init")
@click.option(
    "--key-file",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write.",
)
@pass_session
def init(session: Session, key_file: Path) -> None:
    """Found a cluster: write a new key file, with the authority to admit nodes. Keep it secret."""
    with _installed():
        from cached import administration as node
    facts = plain(node.cluster_init(key_file))
    if session.json:
        return emit_json(facts)
    talk(f"{key_file} is the authority of a new cluster; give it to its nodes, or use: cached cluster admit")
    return _facts(facts)


@cluster.command("admit")
@_key_option
@click.option(
    "--domain", "domains", metavar="D", multiple=True, help="A user domain that the node may speak for."
)
@click.option(
    "--output", metavar="FILE", type=click.Path(path_type=Path), help="Write the node's key file here, 0600."
)
@_config_option
@pass_session
def admit(
    session: Session,
    key_file: Path | None,
    domains: tuple[str, ...],
    output: Path | None,
    config_path: Path | None,
) -> None:
    """Admit one node: write a key file for it alone, which admits nobody else. Keep it secret."""
    with _installed():
        from cached import administration as node
    text = node.cluster_admit(_authority(key_file, config_path, session), list(domains))
    if output is None:
        return click.echo(text, nl=not text.endswith("\n"))
    with open(output, "x", opener=_private, encoding="utf-8") as file:
        file.write(text)
    return (
        emit_json({"key_file": str(output)})
        if session.json
        else talk(f"{output} is the key file of one new node")
    )


@cluster.command("revoke")
@_key_option
@_config_option
@click.argument("nodes", metavar="NODE_ID...", nargs=-1, required=True)
@pass_session
def revoke(session: Session, key_file: Path | None, config_path: Path | None, nodes: tuple[str, ...]) -> None:
    """Shut nodes out of the cluster for good, by their full ids; nodes that use the key file pass it on."""
    with _installed():
        from cached import administration as node
    count = node.cluster_revoke(_authority(key_file, config_path, session), nodes)
    if session.json:
        return emit_json({"revoked": count})
    return talk(f"{count} nodes are revoked in all")


@cluster.command("show")
@_key_option
@_config_option
@pass_session
def show(session: Session, key_file: Path | None, config_path: Path | None) -> None:
    """Tell what a key file says: the cluster, its authority, and whom it admits. No secrets are shown."""
    with _installed():
        from cached import administration as node
    facts = plain(node.cluster_show(key_file, config_path, session.instance))
    return emit_json(facts) if session.json else _facts(facts)


@click.group("config", cls=CachedGroup)
def config() -> None:
    """Inspect the configuration."""


@config.command("show")
@_config_option
@_set_option
@pass_session
def config_show(session: Session, config_path: Path | None, settings: tuple[str, ...]) -> None:
    """Show every setting, its value, and where the value comes from."""
    flags = _flags(session, settings)
    with _installed():
        from cached import administration as node
    found = node.config_show(config_path, session.instance, flags)
    if session.json:
        entries = ({"key": key, "value": value, "source": source} for key, value, source in found)
        return emit_json({"items": list(entries)})
    return table(
        session, ["KEY", "VALUE", "SOURCE"], ((key, _said(value), source) for key, value, source in found)
    )


@contextlib.contextmanager
def _installed() -> Iterator[None]:
    """Say so where a node's libraries are absent, as they may be where only jobs run."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise CachedError(
            f"this installation cannot run a node: {error.name} is missing",
            hint="install what a node needs: pip install 'cachesets[daemon]'",
        ) from error


def _authority(key_file: Path | None, config_path: Path | None, session: Session) -> Path:
    """Return the key file that is meant: the one named, else the configured one."""
    from cached import administration as node

    found = key_file or node.load(config_path, session.instance, {}).cluster.key_file
    if found is None:
        raise UsageError("no key file is configured", hint="name the authority's: --key-file FILE")
    return found


def _flags(session: Session, settings: tuple[str, ...]) -> dict[str, str]:
    flags = {} if session.runtime_dir is None else {"node.runtime_dir": str(session.runtime_dir)}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or "." not in key:
            raise UsageError(
                f"{setting!r} is no setting", hint="write --set SECTION.KEY=VALUE, as in --set node.name=n1"
            )
        flags[key] = value
    return flags


def _facts(facts: dict[str, Any]) -> None:
    pairs((key.replace("_", " "), clean(_said(value))) for key, value in facts.items())


def _said(value: object) -> str:
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
