"""`cached limits`: what this node's links may take, changed while it runs."""

from __future__ import annotations

from typing import Any

import click

from cached_cli.command import CachedCommand, Rate
from cached_cli.output import emit_json, pairs, plain, size, talk
from cached_cli.session import Session, pass_session


@click.command("limits", cls=CachedCommand)
@click.option(
    "--upload", type=Rate(), metavar="RATE", help="Most that it sends, as 10MB/s or 80Mbit/s; none: no limit."
)
@click.option("--download", type=Rate(), metavar="RATE", help="Most that it receives, likewise.")
@pass_session
def limits(session: Session, /, **wishes: int | None) -> None:
    """Show the bandwidth limits of this node, and change them (its administrators).

    They hold for all payload that the node exchanges with other nodes, by every method together. A change holds at
    once, and until the daemon starts again: then the configuration counts, [replication] upload_limit and
    download_limit.
    """
    changes = {name: rate or None for name, rate in wishes.items() if rate is not None}
    found: dict[str, Any] = plain(session.client().limits(**changes))
    if session.json:
        return emit_json(found)
    pairs((name, said(found[f"{name}_bytes_per_second"])) for name in ("upload", "download"))
    if not found["configured"]:
        talk("changed while running: holds until the daemon starts again, then the configuration counts")
    return None


def said(rate: int | None) -> str:
    """Return a limit for people."""
    return "no limit" if rate is None else f"{size(rate)}/s"
