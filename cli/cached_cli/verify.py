"""`cached verify`: check this node's replica against the manifest, and repair it."""

from __future__ import annotations

from typing import Any

import click
from cached.errors import IntegrityFailed

from cached_cli.command import CachedCommand, set_argument
from cached_cli.output import emit_json, plain, size, table, talk, yes_no
from cached_cli.progress import Meter
from cached_cli.session import Session, pass_session


@click.command("verify", cls=CachedCommand)
@set_argument
@click.option("--repair", is_flag=True, help="Fetch damaged files again from another holder.")
@pass_session
def verify(session: Session, name: str, repair: bool) -> None:
    """Check every byte of this node's replica of a set; 7 when damage remains."""
    with Meter(name, session) as meter:
        result: dict[str, Any] = plain(session.client().verify(name, repair=repair, progress=meter))
    if session.json:
        emit_json(result)
    elif result["damaged"]:
        rows = ((entry["path"], yes_no(entry["repaired"]), entry["reason"]) for entry in result["damaged"])
        table(session, ["PATH", "REPAIRED", "WHY"], rows)
    remaining = [entry for entry in result["damaged"] if not entry["repaired"]]
    if remaining or not (result["ok"] or result["damaged"]):
        hint = (
            "no other holder could mend it: see cached show"
            if repair
            else f"mend it with: cached verify {name} --repair"
        )
        raise IntegrityFailed(f"{name}: {len(remaining)} entries are damaged", hint=hint, items=remaining)
    if not session.json:
        talk(f"{name}: {size(result['bytes'])} are as the manifest says")
