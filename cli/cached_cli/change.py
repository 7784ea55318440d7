"""`cached update`, `extend` and `delete`: the owner's changes to a set's metadata."""

from __future__ import annotations

from typing import Any

import click
from cached.errors import Refused, UsageError
from cached.units import format_duration

from cached_cli.command import CachedCommand, Duration, Methods, Replicas, Share, set_argument
from cached_cli.listing import describe
from cached_cli.output import emit_json, left, plain, size, table, talk, warn, yes_no
from cached_cli.session import Session, pass_session


@click.command("update", cls=CachedCommand)
@set_argument
@click.option("--requirements", metavar="EXPR", help="ClassAd expression; '' stands for the default.")
@click.option("--replicas", type=Replicas(), help="Copies besides the originator's.")
@click.option("--methods", type=Methods(), metavar="M[,M]", help="How it may travel: bittorrent, direct.")
@click.option("--share", type=Share(), metavar="private|group:G|public", help="Who may read it.")
@click.option("--tier", type=click.Choice(["disk", "memory"]), help="Where nodes keep it.")
@pass_session
def update(session: Session, /, name: str, **wishes: Any) -> None:
    """Change a set's metadata; its content never changes."""
    changes = {key: value for key, value in wishes.items() if value is not None}
    if not changes:
        raise UsageError(
            "nothing to change",
            hint="name at least one of --requirements --replicas --methods --share --tier",
        )
    found = plain(session.client().update(name, **changes))
    if session.json:
        return emit_json(found)
    return describe(session, found)


@click.command("extend", cls=CachedCommand)
@set_argument
@click.argument("duration", type=Duration(), metavar="DURATION")
@click.option(
    "--everywhere", is_flag=True, help="Ask every holder, not this node alone; 5 when some refused."
)
@pass_session
def extend(session: Session, name: str, duration: int, everywhere: bool) -> None:
    """Ask to keep a set for DURATION from now. A lease is never shortened; each node decides for itself."""
    result = plain(session.client().extend(name, duration, everywhere=everywhere))
    if session.json:
        emit_json(result)
    else:
        columns = ["NODE", "GRANTED", "LEASE", "WHY"]
        rows = (
            (g["node"], yes_no(g["granted"]), left(g["seconds"]) if g["granted"] else "-", g["reason"])
            for g in result["grants"]
        )
        table(session, columns, rows)
    for grant in (grant for grant in result["grants"] if grant["granted"] and grant["shortened"]):
        asked, given = format_duration(duration), left(grant["seconds"])
        warn(
            f"{grant['node']} shortened the lease: {asked} asked, {given} granted: {grant['reason']}".rstrip(
                ": "
            )
        )
    if refused := [grant for grant in result["grants"] if not grant["granted"]]:
        message = f"{len(refused)} of {len(result['grants'])} nodes refused to extend {name}"
        raise Refused(message, hint=f"ask for less, or see cached show {name}", items=refused)


@click.command("delete", cls=CachedCommand)
@set_argument
@click.option(
    "--everywhere", is_flag=True, help="Delete the set from the whole cluster, not this node's replica alone."
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@pass_session
def delete(session: Session, name: str, everywhere: bool, dry_run: bool) -> None:
    """Give up this node's replica; on the originator the set is withdrawn. Open readers finish."""
    result = plain(session.client().delete(name, everywhere=everywhere, dry_run=dry_run))
    if session.json:
        return emit_json(result)
    rows = (
        (entry["node"], entry["action"], size(entry["bytes"]), entry["reason"]) for entry in result["items"]
    )
    table(session, ["NODE", "ACTION", ">BYTES", "WHY"], rows)
    return talk("nothing was changed: this was a dry run") if dry_run else None
