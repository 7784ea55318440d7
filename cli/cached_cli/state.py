"""`cached nodes` and `status`: how the cluster and this node stand."""

from __future__ import annotations

from typing import Any

import click
from cached.units import format_duration

from cached_cli import standing
from cached_cli.command import CachedCommand
from cached_cli.output import emit_json, items, plain, size, table, yes_no
from cached_cli.session import Session, pass_session


@click.command("nodes", cls=CachedCommand)
@pass_session
def nodes(session: Session) -> None:
    """List the nodes of the cluster as this node knows them."""
    found = items(session.client().nodes())
    if session.json:
        return emit_json({"items": found})
    columns = ["NAME", "HOST", "ADDRESS", "ALIVE", ">SETS", ">FREE", ">CAPACITY", "HEARD", "ID"]
    return table(session, columns, (_node(entry) for entry in found))


@click.command("status", cls=CachedCommand)
@pass_session
def status(session: Session) -> None:
    """Tell how this node is: what matters of it, in words. All there is to know comes with --json."""
    found = plain(session.client().status())
    return emit_json(found) if session.json else standing.show(session, found)


def _node(entry: dict[str, Any]) -> tuple[object, ...]:
    age = entry.get("age_seconds")
    return (
        entry["name"],
        entry["host"],
        entry["address"],
        yes_no(entry["alive"]),
        entry["sets"],
        size(entry["free_bytes"]),
        size(entry["capacity_bytes"]),
        "-" if age is None else f"{format_duration(age)} ago",
        entry["id"][:12],
    )
