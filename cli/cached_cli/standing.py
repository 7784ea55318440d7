"""A node's status for people: what matters, in sections and in words; all of it is in the JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import click
from cached.units import format_duration

from cached_cli.output import counted, pairs, size, table
from cached_cli.session import Session

#: Counters that the section of objects tells already, by how their names begin.
_TOLD: Final = ("objects.gone", "objects.admitted", "origin.requests", "origin.retries", "origin.bytes")
#: What counters mean, where their names do not say it well enough.
_WORDS: Final = {
    "adopted": "sets found here without a record, and taken in again",
    "attest.refused": "dumps whose author could not be told",
    "attest.signed": "dumps signed",
    "background_failed": "work in the background that failed: see the log",
    "bytes_damaged": "bytes found damaged",
    "bytes_linked": "bytes of files that were here already, for another set",
    "bytes_lost": "bytes found missing",
    "bytes_repaired": "bytes repaired",
    "files_linked": "files that were here already, for another set",
    "gather.objects": "objects made files of sets",
    "grants_renewed": "leases of replicas renewed",
    "metadata.asked_coarse": "descriptions of sets asked for, with coarse digests",
    "metadata.asked_leaves": "descriptions of sets asked for, with all leaves",
    "metadata.enclosed": "sets whose description came with the offer",
    "objects.block_differs": "parts asked for by nodes with another [objects] block",
    "objects.cleared_for_peer": "times that another node emptied a user's part of the cache",
    "objects.damaged": "copies with a wrong checksum, removed",
    "objects.held_too_much": "opens read through because their user keeps too much open",
    "objects.home_failed": "times that the node responsible for a part did not answer",
    "objects.home_full": "parts of others that found no room here",
    "objects.news_false": "changes told by other nodes that were none",
    "objects.overtaken": "objects replaced while they were read, and read anew",
    "objects.peer_corrupt": "copies of other nodes with wrong bytes, read from Cloud Storage instead",
    "objects.peer_failed": "parts that another node did not send",
    "objects.put_not_kept": "objects written of which no copy could be kept",
    "objects.read_through": "opens read from Cloud Storage and not kept",
    "objects.refused": "objects that no tier took",
    "objects.refused.full": "copies that the file system had no room for",
    "objects.sweep_unanswered": "objects that the node may not ask Cloud Storage about",
    "objects.waited_for_silent": "writes that waited for a node that did not answer",
    "offer.accepted": "replicas accepted",
    "offer.rejected": "replicas that other nodes refused",
    "offer.refused": "replicas refused here",
    "origin.files_repaired": "files of sets repaired from Cloud Storage",
    "origin.set_bytes_got": "bytes of sets that another node had read from Cloud Storage",
    "origin.set_bytes_read": "bytes of sets read from Cloud Storage",
    "persist.bytes": "bytes of sets stored in Cloud Storage",
    "persist.done": "sets stored in Cloud Storage",
    "persist.failed": "times that a set did not get into Cloud Storage",
    "redis.lost": "times that Redis was lost",
    "redis.returned": "times that Redis came back",
    "redis.skipped": "questions to Redis left out while it is lost",
    "replicas_gone": "replicas removed",
    "replicas_received": "replicas received",
    "scrubbed": "contents read again and found right",
}


def show(session: Session, found: dict[str, Any]) -> None:
    """Print a node's status."""
    pairs(_heads(found))
    tiers = found.get("tiers", {})
    if tiers:
        click.echo()
        columns = ["TIER", ">CAPACITY", ">FREE", ">SETS", ">RESERVED", ">GOING", ">OBJECTS", ">OF AT MOST"]
        table(session, columns, (_tier(name, tiers[name], found.get("objects", {})) for name in tiers))
    objects = found.get("objects")
    if objects:
        click.echo()
        pairs(_objects(objects))
    _lists(session, found)
    counted = sorted(
        (name, count) for name, count in found.get("counters", {}).items() if _matters(name, count)
    )
    if counted:
        click.echo()
        rows = ((count, _WORDS.get(name, ""), name) for name, count in counted)
        table(session, [">COUNT", "WHAT HAPPENED SINCE THE START", "COUNTER"], rows)


def _heads(found: dict[str, Any]) -> Iterator[tuple[str, object]]:
    yield (
        "node",
        f"{found.get('name')}, {found.get('state', 'running')} for {_time(found.get('uptime_seconds'))}",
    )
    yield "address", f"{found.get('address')}, on {found.get('host')}, id {str(found.get('id'))[:12]}"
    nodes = found.get("nodes", {})
    away = "" if found.get("reachable", True) else "; no peer can dial this node: it polls"
    heard = f"heard of them {_time(found.get('directory_age_seconds'))} ago"
    yield "cluster", f"{nodes.get('alive')} of {nodes.get('known')} known nodes alive, {heard}{away}"
    sets = found.get("sets", {})
    here = ", ".join(f"{count} {state}" for state, count in sets.get("replicas", {}).items())
    yield (
        "sets",
        f"{sets.get('known', 0)} known; here {here or 'none'}; pinned by {counted(found.get('open', 0), 'open')}",
    )
    health = found.get("health") or ["nothing to look at"]
    for number, words in enumerate(health):
        yield "" if number else "health", words


def _tier(name: str, tier: dict[str, Any], objects: dict[str, Any]) -> tuple[object, ...]:
    copies = objects.get("tiers", {}).get(name, {})
    own = (size(tier.get(f"{kind}_bytes")) for kind in ("capacity", "free", "committed", "reserved", "going"))
    return (name, *own, size(copies.get("used_bytes")), size(copies.get("capacity_bytes")))


def _objects(objects: dict[str, Any]) -> Iterator[tuple[str, object]]:
    yield "objects", objects.get("advice")
    hits, misses = objects.get("hits", {}), objects.get("misses", {})
    read = {place: each for place, each in {**hits, "Cloud Storage": misses}.items() if each.get("reads")}
    if read:
        yield "read", ", ".join(f"{_read(each)} from {place}" for place, each in read.items())
        yield (
            "hit rate",
            f"{_rate(objects.get('hit_rate'))} of the reads, {_rate(objects.get('byte_hit_rate'))} of the bytes",
        )
        whole, part = _rate(objects.get("working_set_fits")), _rate(objects.get("working_set_fits_memory"))
        wanted = size(objects.get("working_set_bytes"))
        yield "working set", f"{wanted}; {whole} of it fit, {part} in memory"
    if objects.get("copies"):
        yield "copies", f"{objects['copies']}, pinned by {counted(objects.get('open', 0), 'open')}"
    gone = {reason: count for reason, count in objects.get("gone", {}).items() if count}
    if gone:
        yield "copies gone", ", ".join(f"{count} {reason}" for reason, count in gone.items())
    if (redis := objects.get("redis", {}).get("state", "none")) != "none":
        yield "Redis", redis
    yield "asked", _asked(objects.get("origin", {}))


def _asked(origin: dict[str, Any]) -> str:
    """Return what Cloud Storage was asked, empty for nothing."""
    requests = {kind: count for kind, count in origin.get("requests", {}).items() if count}
    if not requests:
        return ""
    kinds = ", ".join(f"{count} {kind}" for kind, count in requests.items())
    again = sum(origin.get("retries", {}).values())
    repeated = f", {again} of them again" if again else ""
    moved = f"{size(origin.get('bytes_in', 0))} received, {size(origin.get('bytes_out', 0))} sent"
    return f"Cloud Storage {kinds}{repeated}; {moved}"


def _lists(session: Session, found: dict[str, Any]) -> None:
    if transfers := found.get("transfers"):
        click.echo()
        columns = ["TRANSFER OF", "SET", "METHOD", "STATE", ">THERE", ">OF", ">PER SECOND", "WHY IT WAITS"]
        table(session, columns, map(_transfer, transfers))
    if traffic := found.get("traffic"):
        click.echo()
        columns = ["MOVED OF", "SET", ">SENT", ">RECEIVED", ">IN VAIN"]
        table(session, columns, map(_moved, traffic))


def _transfer(one: dict[str, Any]) -> tuple[object, ...]:
    sizes = (size(one.get(key)) for key in ("bytes_present", "bytes_wanted", "bytes_per_second"))
    return (*_set(one), one.get("method") or "-", one.get("state", "-"), *sizes, one.get("reason", ""))


def _moved(one: dict[str, Any]) -> tuple[object, ...]:
    return (*_set(one), *(size(one[f"bytes_{key}"]) for key in ("sent", "received", "redundant")))


def _set(one: dict[str, Any]) -> tuple[str, str]:
    return one["name"], one["set"][:12]


def _matters(name: str, count: object) -> bool:
    return bool(count) and not name.startswith(_TOLD)


def _read(what: dict[str, Any]) -> str:
    return f"{what['reads']} ({size(what.get('bytes', 0))})"


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else format_duration(seconds)
