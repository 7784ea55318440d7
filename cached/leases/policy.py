"""What a node promises: grant, shorten or refuse a lease; when to renew one; how much a user may keep.

All durations are whole seconds from now. A refusal says what the longest possible lease would be.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cached.errors import Busy, LeaseRefused, QuotaExceeded
from cached.units import format_duration, format_size

#: Creations that one user may have under way on a node.
MOST_OPEN = 32


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What the node promises."""

    seconds: int
    #: Less than was asked for.
    shortened: bool = False
    #: Why it is not just what was asked for, in words; empty otherwise.
    reason: str = ""


def decide(*, asked: int | None, min_lease: int, max_lease: int, default: int, draining: bool) -> Grant:
    """Answer a request for a new lease.

    Without a wish the node's default is asked for, or the least that the caller can use if that is more.
    Raises `LeaseRefused` when less than `min_lease` can be granted, for no time at all, and while the node
    drains.
    """
    _refuse_when_draining(draining)
    wanted = max(default, min_lease) if asked is None else asked
    grant = _capped(wanted, max_lease)
    if grant.seconds <= 0:
        raise LeaseRefused(
            "a lease must last a second at least", hint="ask for a longer lease", longest_seconds=max_lease
        )
    if grant.seconds < min_lease:
        raise LeaseRefused(
            f"{format_duration(grant.seconds)} is the longest lease possible here,"
            f" {format_duration(min_lease)} the least acceptable",
            hint="lower --min-lease, or ask for a longer lease"
            if not grant.shortened
            else "lower --min-lease",
            asked_seconds=wanted,
            min_lease_seconds=min_lease,
            longest_seconds=min(wanted, max_lease),
        )
    return grant


def extension(left: float, asked: int, max_lease: int, *, draining: bool = False) -> Grant:
    """Answer a request that a lease with `left` seconds (zero or less: expired) last `asked` seconds from
    now.

    The grant is never below what is left, rounded down to a second: keep the later deadline of the two
    (`Lease.extended`). Raises `LeaseRefused` for no time at all, and while the node drains.
    """
    _refuse_when_draining(draining)
    if asked <= 0:
        raise LeaseRefused(
            "a lease cannot be extended by nothing", hint="ask for a longer lease", longest_seconds=max_lease
        )
    grant = _capped(asked, max_lease)
    if grant.seconds > left:
        return grant
    kept = int(left)
    return Grant(
        seconds=kept,
        shortened=kept < asked,
        reason=f"the lease already lasts {format_duration(kept)} more, and is kept",
    )


def renewal_due(left: float, granted: int, set_left: float, max_lease: int) -> int | None:
    """Return the seconds to which a holder's grant is to be renewed now, or None.

    Due once half of the grant is over, as long as the set's own lease outlasts it.
    """
    if left > granted / 2:
        return None
    wanted = int(min(set_left, max_lease))
    return wanted if wanted > max(left, 0.0) else None


def quota(used: int, wanted: int, limit: int | None) -> None:
    """Raise `QuotaExceeded` if `wanted` more logical bytes would exceed a user's limit; None: no limit."""
    if limit is not None and used + wanted > limit:
        raise QuotaExceeded(
            f"{format_size(wanted)} more would exceed the quota of {format_size(limit)} on this node,"
            f" {format_size(used)} are used",
            hint="delete sets or let their leases end, or ask the administrator for a larger [policy] quota",
            bytes_wanted=wanted,
            bytes_used=used,
            quota=limit,
        )


def share(others: Sequence[int], wanted: int, obtainable: int, what: str = "creations") -> None:
    """Raise `Busy` if what one user has under way would keep the others from the same; `what`: how it is called.

    There are at most `MOST_OPEN` of them; and all but the largest together hold at most half of what is left for
    them, `obtainable` bytes being free or expired at present.
    """
    if len(others) >= MOST_OPEN:
        raise Busy(f"{MOST_OPEN} {what} of this user are under way", hint="end some, or try again later")
    if not others:
        return
    whole = sum(others)
    largest = max(*others, wanted)
    if 2 * (whole + wanted - largest) > obtainable + whole - largest:
        raise Busy(
            f"the {len(others)} {what} that this user has under way hold {format_size(whole)} of the node's space",
            hint="end them first, or try again later",
            bytes_wanted=wanted,
            bytes_held=whole,
        )


def _capped(wanted: int, max_lease: int) -> Grant:
    if wanted <= max_lease:
        return Grant(seconds=wanted)
    return Grant(
        seconds=max_lease,
        shortened=True,
        reason=f"this node grants at most {format_duration(max_lease)}, {format_duration(wanted)} were asked for",
    )


def _refuse_when_draining(draining: bool) -> None:
    if draining:
        raise LeaseRefused(
            "the node is stopping and makes no new promises", hint="try another node, or later"
        )
