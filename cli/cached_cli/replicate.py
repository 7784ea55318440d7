"""`cached replicate`: ask for copies, and wait for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from cached.errors import CachedError, Refused, TimedOut

from cached_cli.command import CachedCommand, Duration, Replicas, set_argument
from cached_cli.listing import replica_table
from cached_cli.output import emit_json, plain, talk
from cached_cli.progress import Meter
from cached_cli.session import Session, pass_session


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
    return built


def require_complete(name: str, result: dict[str, Any]) -> None:
    """Raise unless all that match hold the set: `Refused` with who refused, else `TimedOut`."""
    if error := shortfall(name, result):
        raise error


def shortfall(name: str, result: dict[str, Any]) -> CachedError | None:
    """Return what is missing after a wait, as the error to end with; None when nothing is."""
    if result["complete"]:
        return None
    have, wanted = result["have"], result["wanted"]
    counted = f"{have} of {wanted} nodes hold {name}" if wanted > 0 else f"{have} nodes hold {name}"
    refused = [entry for entry in result["items"] if entry["state"] == "REJECTED"]
    if refused:
        hint = f"see why with: cached match {name}"
        return Refused(f"{counted}; {len(refused)} refused", hint=hint, items=refused)
    missing = [entry for entry in result["items"] if entry["state"] != "COMMITTED"]
    return TimedOut(
        f"{counted}; the others are not done", hint=f"watch them with: cached show {name}", items=missing
    )
