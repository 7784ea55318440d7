"""`cached create`: commit files as a set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from cached.units import format_duration, format_size

from cached_cli.command import CachedCommand, Duration, Methods, Replicas, Share
from cached_cli.output import counted, emit_json, left, plain, talk, warn
from cached_cli.progress import Meter
from cached_cli.replicate import require_complete, wait_for
from cached_cli.session import Session, pass_session

if TYPE_CHECKING:
    from cached.client import CreateOptions

#: Seconds by which a lease may be shorter than asked before it counts as shortened: the time the answer took.
_SLACK = 60


@click.command("create", cls=CachedCommand)
@click.argument("name", metavar="NAME")
@click.argument("paths", metavar="[PATH...]", nargs=-1, type=click.Path())
@click.option(
    "--from", "source", metavar="gs://B/P", help="Make it of the objects below a prefix, without PATHs."
)
@click.option(
    "--from-set",
    "source_set",
    metavar="gs://B/P",
    help="Make a set again that --origin keeps there, without PATHs.",
)
@click.option("--origin", metavar="gs://B/P", help="Keep it in Cloud Storage as well, below that prefix.")
@click.option("--lease", type=Duration(), help="How long nodes shall keep it (default: as the node says).")
@click.option(
    "--min-lease", type=Duration(), default="0", help="Refuse rather than take a shorter lease than this."
)
@click.option("--requirements", metavar="EXPR", help="ClassAd expression that a node must satisfy.")
@click.option("--replicas", type=Replicas(), help="Copies besides this node's (default: as the node says).")
@click.option("--methods", type=Methods(), metavar="M[,M]", help="How it may travel: bittorrent, direct.")
@click.option("--tier", type=click.Choice(["disk", "memory"]), help="Where nodes keep it (default: disk).")
@click.option(
    "--share",
    type=Share(),
    metavar="private|group:G|public",
    help="Who may read it (default: private).",
)
@click.option(
    "--scope", metavar="S", envvar="CACHED_SCOPE", help="Batch that it belongs to (default: $CACHED_SCOPE)."
)
@click.option("--replace", is_flag=True, help="Move a taken name to this content; the old set is withdrawn.")
@click.option("--wait", is_flag=True, help="Wait until the other nodes hold it too; 5 when some refused.")
@pass_session
def create(session: Session, /, name: str, paths: tuple[str, ...], wait: bool, **wishes: Any) -> None:
    """Commit files as a set called NAME, and print the set's id.

    One directory gives its contents; several paths keep their base names. The same once more changes nothing;
    options that are left out are then as the set has them. With --origin this ends once Cloud Storage has all of it.
    """
    options = _options(wishes)
    if bool(paths) == bool(options.source or options.source_set):
        raise click.UsageError("name PATHs, or one of --from and --from-set")
    made = _store(session, name, paths, options)
    reference = f"id:{made['id']}"
    if not session.json:
        click.echo(made["id"])
        talk(
            f"{made['name']}: {counted(made['files'], 'file')}, {format_size(made['bytes'])}, {_leased(made)}"
        )
    for warning in (shortened(options.lease_seconds, made.get("lease")), _not_in_memory(options.tier, made)):
        if warning:
            warn(warning)
    try:
        if wait:
            require_complete(
                name, wait_for(session, reference, label=made["name"], replicas=options.replicas)
            )
            made = plain(session.client().show(reference))
    finally:
        if session.json:
            emit_json(made)


def _options(wishes: dict[str, Any]) -> CreateOptions:
    from cached.client import CreateOptions

    for name in ("source", "source_set", "origin"):
        wishes[name] = wishes[name] or ""
    return CreateOptions(
        lease_seconds=wishes.pop("lease"), min_lease_seconds=wishes.pop("min_lease"), **wishes
    )


def _store(session: Session, name: str, paths: tuple[str, ...], options: CreateOptions) -> dict[str, Any]:
    client = session.client()
    meter = Meter(name, session)
    try:
        with meter:
            made: dict[str, Any] = plain(client.create(name, list(paths), options, progress=meter))
    except KeyboardInterrupt:
        talk(f"cached: interrupted: {aftermath(name, meter.last)}")
        click.get_current_context().exit(130)
    return made


def aftermath(name: str, last: dict[str, Any]) -> str:
    """Say what an interrupted create left, by its last report: nothing, unless all had been handed over."""
    if last.get("state") == "UPLOADING":
        return f"it is committed on this node, which goes on to bring it to Cloud Storage: cached show {name}"
    if last.get("state") == "SENDING":
        return (
            "nothing was stored on this node; what Cloud Storage has already counts when it is created again"
        )
    if last.get("state") == "SEALING":
        return f"all files had been handed over, so the node may still commit them: cached show {name}"
    return "nothing was stored"


def shortened(asked: int | None, lease: dict[str, Any] | None) -> str:
    """Return the warning that a lease is shorter than asked; empty when it is not.

    The node may have shortened it, or the set was there already: that keeps the lease it has.
    """
    if asked is None or lease is None or lease["seconds_left"] >= asked - min(_SLACK, asked / 10):
        return ""
    said = f"{format_duration(asked)} asked, {left(lease['seconds_left'])} granted"
    return f"the lease is shorter than asked: {said}, until {lease['expires_at']}"


def _not_in_memory(asked: str | None, made: dict[str, Any]) -> str:
    """Return the warning that the copy wanted in memory is on disk alone; empty when there is nothing to say."""
    here = [one for one in made["replicas"] if one["node"] == made["originator"] and one["tier"] != "memory"]
    if asked != "memory" or not here:
        return ""
    return f"{made['originator']} holds it on disk alone: {here[0]['reason'] or 'there is no copy in memory'}"


def _leased(made: dict[str, Any]) -> str:
    lease = made.get("lease")
    return f"leased for {left(lease['seconds_left'])}" if lease else "no copy here yet"
