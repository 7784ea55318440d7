"""`cached usage`: who keeps how much on this node, and what was taken of it and of Cloud Storage."""

from __future__ import annotations

import csv
import sys
from typing import Any, Final

import click
from cached.errors import UsageError

from cached_cli.command import CachedCommand
from cached_cli.output import emit_json, pairs, plain, size, table
from cached_cli.session import Session, pass_session

_WHOSE: Final = ("owner", "kind", "tier", "scope")
_FIGURES: Final = ("byte_seconds", "saved_bytes", "saved_operations", "spent_bytes", "spent_operations")
#: Byte-seconds of a decimal gigabyte kept for an hour.
_GB_HOUR: Final = 1e9 * 3600


@click.command("usage", cls=CachedCommand)
@click.option("--user", metavar="USER", help="Of this user (administrators; others see their own).")
@click.option(
    "--since", metavar="WHEN", help="Taken since then: 7d, 12h, or a date as in RFC 3339 (default: all)."
)
@click.option("--scope", metavar="SCOPE", help="Taken in this scope.")
@click.option("--csv", "as_csv", is_flag=True, help="Print what was taken as CSV, in exact figures.")
@pass_session
def usage(session: Session, user: str | None, since: str | None, scope: str | None, as_csv: bool) -> None:
    """Tell how much space is used on this node, by whom, and what was taken over time.

    Space taken is in GB·h: a gigabyte (10^9 bytes) kept for an hour. SAVED and READS are what Cloud Storage did not
    have to serve, SPENT and REQUESTS what it did.
    """
    if as_csv and session.json:
        raise UsageError("--json and --csv cannot be had together", hint="choose one of them")
    found = plain(session.client().usage(user=user, since=since, scope=scope))
    if session.json:
        return emit_json(found)
    taken = found.get("ledger", [])
    if as_csv:
        return _print_csv(taken)
    _print_kept(session, found["items"])
    if taken:
        _print_taken(session, found)
    return None


def _print_kept(session: Session, items: list[dict[str, Any]]) -> None:
    rows = ([one["owner"], size(one["bytes"]), one["sets"], size(one["quota_bytes"])] for one in items)
    table(session, ["OWNER", ">SETS TAKE", ">SETS", ">QUOTA"], rows)


def _print_taken(session: Session, found: dict[str, Any]) -> None:
    click.echo()
    pairs([("taken since", found["since"])])
    columns = ["OWNER", "KIND", "TIER", "SCOPE", ">GB·h", ">SAVED", ">READS", ">SPENT", ">REQUESTS"]
    rows = [[*(one[name] or "-" for name in _WHOSE), *_said(one)] for one in found["ledger"]]
    rows.append(["sum", "", "", "", *_said(found["sums"])])
    table(session, columns, rows)


def _said(figures: dict[str, Any]) -> list[object]:
    """Return figures for people."""
    return [
        gigabyte_hours(figures["byte_seconds"]),
        size(figures["saved_bytes"]),
        figures["saved_operations"],
        size(figures["spent_bytes"]),
        figures["spent_operations"],
    ]


def gigabyte_hours(byte_seconds: float) -> str:
    """Return byte-seconds for people, in GB·h, with at least two digits that tell something."""
    value = byte_seconds / _GB_HOUR
    return f"{value:,.3f}" if value >= 0.01 or value == 0 else f"{value:.2g}"


def _print_csv(taken: list[dict[str, Any]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*_WHOSE, *_FIGURES])
    for one in taken:
        writer.writerow([one[name] for name in (*_WHOSE, *_FIGURES)])
