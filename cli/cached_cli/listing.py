"""`cached list`, `show` and `files`: what sets there are, and what is in them."""

from __future__ import annotations

import math
from typing import Any

import click
from cached.units import format_duration

from cached_cli.command import ALL, CachedCommand, set_argument
from cached_cli.output import clean, emit_json, items, left, pairs, plain, size, table
from cached_cli.session import Session, pass_session


@click.command("list", cls=CachedCommand)
@click.option("--local", is_flag=True, help="Only sets of which this node holds a replica.")
@click.option(
    "--objects",
    "prefix",
    metavar="[gs://PREFIX]",
    is_flag=False,
    flag_value="",
    help="Your copies of objects on this node instead, or those below a prefix.",
)
@pass_session
def list_sets(session: Session, local: bool, prefix: str | None) -> None:
    """List the sets that you may see."""
    if prefix is not None:
        return _copies(session, prefix)
    found = items(session.client().list(local=local))
    if session.json:
        return emit_json({"items": found})
    columns = ["NAME", "OWNER", ">FILES", ">SIZE", "STATE", "LEASE", "REPLICAS", "SHARE"]
    return table(session, columns, (_row(entry) for entry in found))


@click.command("show", cls=CachedCommand)
@set_argument
@pass_session
def show(session: Session, name: str) -> None:
    """Show one set: its facts, its lease here, and its replicas."""
    found = plain(session.client().show(name))
    if session.json:
        return emit_json(found)
    return describe(session, found)


@click.command("files", cls=CachedCommand)
@set_argument
@pass_session
def files(session: Session, name: str) -> None:
    """List the files, directories and links in a set."""
    found = items(session.client().files(name))
    if session.json:
        return emit_json({"items": found})
    rows = (
        (_mode(entry), size(entry["size"]) if entry["kind"] == "file" else "-", _path(entry))
        for entry in found
    )
    return table(session, ["KIND", ">SIZE", "PATH"], rows)


def describe(session: Session, found: dict[str, Any]) -> None:
    """Print one set for people."""
    pairs(
        (
            ("name", found["name"]),
            ("owner", found["owner"]),
            ("id", found["id"]),
            ("content", found["content"]),
            ("revision", found["revision"]),
            ("state", found["state"]),
            ("files", found["files"]),
            ("size", size(found["bytes"])),
            ("lease", lease(found)),
            ("share", found["share"]),
            ("tier", found.get("tier")),
            ("requirements", found["requirements"] or "(default)"),
            ("methods", ", ".join(found["methods"])),
            ("replicas", wanted(found)),
            ("originator", found["originator"]),
            *origin(found),
        )
    )
    if found["replicas"]:
        click.echo()
        replica_table(session, found["replicas"])


def origin(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return where the origin keeps a set, and how far it is on its way there; nothing without one."""
    rows = [("origin", found["origin"])] if found.get("origin") else []
    if upload := found.get("upload"):
        said = f"{size(upload['bytes_present'])} of {size(upload['bytes_wanted'])} there"
        if upload["reason"]:
            said += f"; {upload['reason']}"
        if (seconds := upload.get("retry_in_seconds")) is not None:
            said += f"; tried again in {format_duration(math.ceil(seconds))}"
        rows.append(("upload", said))
    return rows


def replica_table(session: Session, replicas: list[dict[str, Any]]) -> None:
    """Print replicas, one a line, and below them why one is not as it should be.

    While one is on its way, how fast, and for how long still.
    """
    moving = any(entry["state"] in ("REQUESTED", "TRANSFERRING") for entry in replicas)
    columns = ["NODE", "STATE", "TIER", ">PRESENT", *([">RATE", ">LEFT"] if moving else []), "LEASE"]
    rows = (
        (
            entry["node"],
            entry["state"],
            entry["tier"] + (" (volatile)" if entry.get("volatile") else ""),
            size(entry["bytes_present"]),
            *(speed(entry) if moving else ()),
            left(entry["lease_seconds_left"]),
        )
        for entry in replicas
    )
    table(session, columns, rows, unbroken=("STATE", "LEASE"))
    for entry in replicas:
        if entry["reason"]:
            click.echo(clean(f"{entry['node']}: {entry['reason']}"))


def speed(entry: dict[str, Any]) -> tuple[str, str]:
    """Return how fast a replica comes, and until when it is whole at that rate; `-` where that is not known."""
    rate, seconds = entry.get("bytes_per_second"), entry.get("seconds_left")
    if not rate:
        return "-", "-"
    return f"{size(rate)}/s", "-" if seconds is None else format_duration(math.ceil(seconds))


def lease(found: dict[str, Any]) -> str:
    """Return a set's lease for people."""
    granted = found.get("lease")
    return (
        f"{left(granted['seconds_left'])} (until {granted['expires_at']})" if granted else "none on this node"
    )


def wanted(found: dict[str, Any]) -> str:
    """Return how many live nodes hold the set, how many dead ones, and how many are wanted besides the originator's."""
    live, away = held(found)
    asked = found.get("replicas_wanted")
    return (
        f"{live} held"
        + (f", {away} on nodes that are not seen" if away else "")
        + ("" if asked is None else f", {'all' if asked == ALL else asked} wanted besides the first")
    )


def held(found: dict[str, Any]) -> tuple[int, int]:
    """Return how many live nodes hold a whole copy of the set, and how many that are not seen."""
    alive = [entry.get("alive", True) for entry in found["replicas"] if entry["state"] == "COMMITTED"]
    return sum(alive), len(alive) - sum(alive)


def _copies(session: Session, prefix: str) -> None:
    found = items(session.client().list_copies(prefix or None))
    if session.json:
        return emit_json({"items": found})
    rows = (
        (
            f"gs://{entry['bucket']}/{entry['name']}" + ("" if entry["whole"] else " (parts)"),
            entry["generation"],
            size(entry["bytes"]),
            ", ".join(entry["tiers"]),
            format_duration(entry["age_seconds"]),
            entry["scope"] or "-",
        )
        for entry in found
    )
    return table(session, ["OBJECT", ">GENERATION", ">SIZE", "TIER", ">NOT USED FOR", "SCOPE"], rows)


def _row(entry: dict[str, Any]) -> tuple[object, ...]:
    granted = entry.get("lease")
    return (
        entry["name"],
        entry["owner"],
        entry["files"],
        size(entry["bytes"]),
        entry["state"],
        left(granted["seconds_left"]) if granted else "-",
        held(entry)[0],
        entry["share"],
    )


def _mode(entry: dict[str, Any]) -> str:
    return "program" if entry.get("executable") else str(entry["kind"])


def _path(entry: dict[str, Any]) -> str:
    return f"{entry['path']} -> {entry['target']}" if entry["kind"] == "link" else str(entry["path"])
