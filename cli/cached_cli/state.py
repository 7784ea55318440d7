"""`cached nodes` and `status`: how the cluster and this node stand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from cached.units import format_duration

from cached_cli.command import CachedCommand
from cached_cli.output import emit_json, items, pairs, plain, size, table, yes_no
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
    """Tell how this node is."""
    _facts(session, plain(session.client().status()))


def _facts(session: Session, found: Any) -> None:
    """Print facts whose names the node chooses: plain values first, then each list as a table."""
    if session.json:
        return emit_json(found)
    built = {"items": found} if isinstance(found, list) else found
    pairs(flat(built))
    for entries in (value for value in built.values() if is_table(value)):
        columns = list(dict.fromkeys(key for entry in entries for key in entry))
        rows = ([said(key, entry.get(key)) for key in columns] for entry in entries)
        table(session, [key.replace("_", " ").upper() for key in columns], rows)
    return None


def is_table(value: object) -> bool:
    """Return whether a fact is a list of objects."""
    return isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value)


def flat(facts: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the plain facts, nested ones under their path, in words."""
    for key, value in facts.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif not is_table(value):
            yield prefix + key, said(key, value)


def said(key: str, value: object) -> str:
    """Return one fact for people, in the unit that its name tells."""
    if isinstance(value, bool) or value is None:
        return yes_no(value)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, int | float) and "bytes" in key.split("_"):
        return size(value)
    if isinstance(value, int | float) and "seconds" in key.split("_"):
        return format_duration(value)
    if isinstance(value, float) and {"rate", "fits"} & set(key.split("_")):
        return f"{value:.1%}"
    return str(value)


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
