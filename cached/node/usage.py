"""Usage: what users keep on this node at present, and what they took of it and of Cloud Storage over time."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec

from cached.catalog.rows import LedgerRow
from cached.errors import Forbidden, UsageError
from cached.leases.meter import HOUR, Figures
from cached.node import ledger
from cached.node.caller import Caller
from cached.node.node import Node
from cached.units import parse_duration, rfc3339


async def usage(
    node: Node,
    caller: Caller,
    user: str | None = None,
    since: str | None = None,
    scope: str | None = None,
) -> dict[str, Any]:
    """Return what the caller, for administrators everybody or `user`, keeps here and took since then.

    `since` is a duration back from now or an RFC 3339 date, with or without a time, and counts from the beginning of
    that hour; without it, the sums are of all that the ledger knows. Raises `Forbidden` for another user's figures, and
    `UsageError`.
    """
    if user not in (None, caller.user) and not caller.admin:
        raise Forbidden(
            f"only {user} and administrators of this node may see what {user} uses",
            hint="leave --user out to see your own",
        )
    owner = user or (None if caller.admin else caller.user)
    now = node.now().wall
    first = 0 if since is None else int(_instant(since, now) // HOUR)
    await ledger.write(node)
    rows = await node.catalog.read(partial(_taken, first, owner, scope))
    return {
        "items": [_kept(node, one) for one in _owners(node, caller, owner)],
        "since": rfc3339(min((row.hour for row in rows), default=first or int(now // HOUR)) * HOUR),
        "ledger": [_taken_line(row) for row in rows],
        "sums": msgspec.structs.asdict(_sum(rows)),
    }


def _owners(node: Node, caller: Caller, owner: str | None) -> list[str]:
    if owner is not None:
        return [owner]
    return sorted({row.owner for row in node.shelf.replicas.values()} | {caller.user})


def _kept(node: Node, owner: str) -> dict[str, Any]:
    return {
        "owner": owner,
        "bytes": node.space.logical(owner),
        "sets": sum(row.owner == owner for row in node.shelf.replicas.values()),
        "quota_bytes": node.config.policy.quota,
    }


def _taken(first: int, owner: str | None, scope: str | None, tx: Any) -> list[LedgerRow]:
    found: list[LedgerRow] = tx.taken(first, owner=owner, scope=scope)
    return found


def _taken_line(row: LedgerRow) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(row).items() if name != "hour"}


def _sum(rows: Iterable[LedgerRow]) -> Figures:
    total = Figures()
    for row in rows:
        total.add(Figures(**{name: getattr(row, name) for name in Figures.__struct_fields__}))
    return total


def _instant(text: str, now: float) -> float:
    """Return the wall-clock time that is meant, never before 1970."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        try:
            return max(0.0, now - parse_duration(text))
        except UsageError as error:
            raise UsageError(
                f"{text!r} is neither a duration nor a date",
                hint="write 7d or 12h, 2026-01-31, or 2026-01-31T08:00:00Z",
            ) from error
    return max(0.0, (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp())
