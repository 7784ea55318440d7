"""`cached match` and `locate`: which nodes may hold a set, and where its bytes are already."""

from __future__ import annotations

from typing import IO, Any, Final

import click
from cached.errors import UsageError
from cached.units import format_duration

from cached_cli.command import CachedCommand, set_argument, set_names
from cached_cli.output import emit_json, items, left, plain, size, table, talk, yes_no
from cached_cli.session import Session, pass_session

#: What is said of a set that no live node holds whole.
_SCARCE: Final = {
    "origin": "no live node holds it; Cloud Storage does",
    "partial": "live nodes hold only parts of it: who lacks it cannot get it now",
    "none": "no live node holds anything of it: who lacks it cannot get it now",
}


@click.command("match", cls=CachedCommand)
@set_argument
@pass_session
def match(session: Session, name: str) -> None:
    """Tell, for each node, whether it matches a set; if not, which side refuses, and why."""
    found = items(session.client().match(name))
    if session.json:
        return emit_json({"items": found})
    rows = (
        (entry["node"], yes_no(entry["matches"]), refuser(entry), "; ".join(entry["reasons"]))
        for entry in found
    )
    return table(session, ["NODE", "MATCHES", "REFUSED BY", "WHY"], rows)


@click.command("locate", cls=CachedCommand)
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=set_names)
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option(
    "--job-ad",
    type=click.File("r", encoding="utf-8"),
    metavar="FILE",
    help="Match this job too: a file with its ClassAd, in new or old syntax; `-` for stdin.",
)
@pass_session
def locate(session: Session, names: tuple[str, ...], form: str, job_ad: IO[str] | None) -> None:
    """Rank the nodes by how near the data of the sets is, the best first."""
    found = plain(session.client().locate(list(names), job_ad=_text(job_ad) if job_ad else None))
    if session.json or form == "json":
        return emit_json(found)
    columns = ["NODE", "HOST", "STATE", ">PRESENT", ">WANTED", "LEASE", ">FREE", "MATCHES", "ESTIMATE"]
    table(session, columns, (_place(entry) for entry in found["items"]))
    for each in found["sets"]:
        if said := _SCARCE.get(each["available"]):
            talk(f"{each['name']}: {said}")
    return talk(f"as this node knew it {format_duration(found['directory_age_seconds'])} ago")


def _text(file: IO[str]) -> str:
    try:
        return file.read()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{file.name} is no text: it is not UTF-8", hint="--job-ad takes a ClassAd"
        ) from error


def refuser(entry: dict[str, Any]) -> str:
    """Name the side whose requirements do not hold: the set, the node, both, or neither."""
    sides = [name for name, side in (("set", "set_side"), ("node", "node_side")) if not entry[side]]
    return " and ".join(sides)


def _place(entry: dict[str, Any]) -> tuple[object, ...]:
    estimate = entry["estimate_seconds"]
    return (
        entry["node"],
        entry["host"],
        entry["state"] or "-",
        size(entry["bytes_present"]),
        size(entry["bytes_wanted"]),
        left(entry["lease_seconds_left"]),
        size(entry["free_bytes"]),
        yes_no(entry["matches"]),
        "-" if estimate is None else format_duration(estimate),
    )
