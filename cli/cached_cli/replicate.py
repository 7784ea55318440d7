"""`cached replicate`: ask for copies, and wait for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import click
from cached.errors import CachedError, Refused, TimedOut

from cached_cli.command import CachedCommand, Duration, Replicas, set_argument
from cached_cli.listing import replica_table
from cached_cli.output import counted, emit_json, plain, talk
from cached_cli.progress import Meter
from cached_cli.session import Session, pass_session

#: Nodes that do not match are told of at most, and characters of the reason of each.
MOST: Final = 8
LONGEST: Final = 160


@click.command("replicate", cls=CachedCommand)
@set_argument
@click.option(
    "--replicas", type=Replicas(), help="Copies besides the originator's (default: as the set says)."
)
@click.option(
    "--to", "nodes", metavar="NODE", multiple=True, help="A node that shall have a copy; may be repeated."
)
@click.option("--wait", is_flag=True, help="Wait until all that match hold it; 5 when some refused.")
@click.option("--timeout", type=Duration(), default="1h", show_default=True, help="How long to wait.")
@pass_session
def replicate(
    session: Session, name: str, replicas: int | None, nodes: tuple[str, ...], wait: bool, timeout: int
) -> None:
    """Copy a set to other nodes. Without --wait the work goes on in the background."""
    if wait:
        result = wait_for(session, name, replicas=replicas, nodes=nodes, timeout=timeout)
    else:
        result = plain(session.client().replicate(name, replicas=replicas, to=nodes, wait=False))
        tell_unmatched(session, name, result)
    if session.json:
        emit_json(result)
    else:
        replica_table(session, result["items"])
    if wait:
        require_complete(name, result)
    elif not session.json:
        talk(f"the copies are made in the background; watch them with: cached show {name}")


def wait_for(
    session: Session,
    name: str,
    *,
    label: str = "",
    replicas: int | None = None,
    nodes: Sequence[str] = (),
    timeout: int = 3600,
) -> dict[str, Any]:
    """Ask for copies and wait for them, with progress; an interruption stops the watching, not the work.

    `label` is what people call the set, where `name` is not that.
    """
    label = label or name
    going_on = (
        f"no longer waiting; the nodes go on making the copies; to look at them: cached show {label}; "
        f"to have no more of them made: cached update {label} --replicas 0"
    )
    try:
        with Meter(label, session, after=going_on) as meter:
            result = session.client().replicate(
                name, replicas=replicas, to=tuple(nodes), wait=True, timeout=timeout, progress=meter
            )
    except KeyboardInterrupt:
        if not meter.last.get("nodes"):
            talk(f"cached: {going_on}")
        click.get_current_context().exit(130)
    built: dict[str, Any] = plain(result)
    tell_unmatched(session, label, built)
    if not session.json and (said := too_few(None if nodes else replicas, built)):
        talk(said)
    return built


def too_few(asked: int | None, result: dict[str, Any]) -> str:
    """Say that there are fewer nodes that match than copies asked for; empty when there are enough."""
    if asked is None or asked <= max(0, result["wanted"]):
        return ""
    return f"{result['have']} of {asked} copies are there; the others are made once more nodes that match are seen"


def tell_unmatched(session: Session, name: str, result: dict[str, Any]) -> None:
    """Say which nodes nobody waits for because they do not match, and why, in a line each."""
    unmatched = [] if session.json else result.get("unmatched") or []
    if not unmatched:
        return
    talk(f"{counted(len(unmatched), 'node does', 'nodes do')} not match and will not hold {name}:")
    for entry in unmatched[:MOST]:
        talk(f"  {entry['node']}: {why(entry)}")
    if len(unmatched) > MOST:
        talk(f"  and {len(unmatched) - MOST} more: cached match {name}")


def why(entry: dict[str, Any]) -> str:
    """Return the first reason for which a node does not match, on a line; who has said it stands before it."""
    first = str((entry["reasons"] or ["its requirements, or those of the set, do not hold"])[0])
    return first if len(first) <= LONGEST else first[: LONGEST - 1] + "…"


def require_complete(name: str, result: dict[str, Any]) -> None:
    """Raise unless all that match hold the set: `Refused` with who refused, else `TimedOut`."""
    if error := shortfall(name, result):
        raise error


def shortfall(name: str, result: dict[str, Any]) -> CachedError | None:
    """Return what is missing after a wait, as the error to end with; None when nothing is."""
    if result["complete"]:
        return None
    have, wanted = result["have"], result["wanted"]
    held = f"{have} of {wanted} nodes hold {name}" if wanted > 0 else f"{have} nodes hold {name}"
    refused = [entry for entry in result["items"] if entry["state"] == "REJECTED"]
    failed = [entry for entry in result["items"] if entry["state"] == "FAILED"]
    said = [f"{len(found)} {word}" for found, word in ((refused, "refused"), (failed, "failed")) if found]
    if refused:
        hint = f"see why with: cached match {name}"
        return Refused(f"{held}; {', '.join(said)}", hint=hint, items=refused + failed)
    if failed:
        hint = f"they are asked again; ask at once with: cached replicate {name} --to NODE --wait"
        return CachedError(f"{held}; {', '.join(said)}", hint=hint, items=failed)
    missing = [entry for entry in result["items"] if entry["state"] != "COMMITTED"]
    return TimedOut(
        f"{held}; the others are not done", hint=f"watch them with: cached show {name}", items=missing
    )
