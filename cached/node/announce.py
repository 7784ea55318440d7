"""What this node tells the others about itself: its ad, its space, its replicas and the tombstones that it has
carried out.
"""

from __future__ import annotations

from cached.catalog.rows import ReplicaRow
from cached.config import Config
from cached.errors import BadExpression
from cached.leases.capacity import Space as Ledger
from cached.matching.ads import NodeFacts, coarse, node_ad
from cached.matchmaker.pool import Matchmaker
from cached.node.node import Node
from cached.peers.records import Holding, HoldingState, NodeContents
from cached.sets.set import Tier

#: Said of a set for memory whose durable copy alone is there: the log of that node says why.
NOT_IN_MEMORY = "there is no copy in memory now: the copy on disk serves"


#: Seconds that news waits for more where nobody needs it before it changes again.
UNHURRIED = 0.5


def publish(node: Node, *changed: str, hurried: bool = True) -> None:
    """Publish this node's state; `changed` are sets whose records are new and should travel at once.

    Where it is not `hurried`, what is new goes with what changes next, if that is soon.
    """
    within = None if hurried else UNHURRIED
    node.directory.publish(contents(node), within)
    if changed:
        node.directory.announce(list(changed), within)


def contents(node: Node) -> NodeContents:
    """Return what this node says about itself now."""
    disk = node.space.ledger("disk")
    return NodeContents(
        host=node.host,
        bittorrent_port=node.bittorrent_port,
        ad=_ad(node, disk),
        capacity_bytes=_capacity(node, disk),
        free_bytes=coarse(disk.free()),
        replicas=tuple(holding(node, row) for row in node.shelf.replicas.values()) if node.introduced else (),
        tombstones=tuple(
            known.record.id for known in node.shelf.known.values() if known.record.status == "deleted"
        ),
    )


def ad(node: Node) -> dict[str, object]:
    """Return this node's ClassAd as of now."""
    return _ad(node, node.space.ledger("disk"))


def _ad(node: Node, disk: Ledger) -> dict[str, object]:
    facts: NodeFacts = node.facts(
        name=node.directory.name,
        total_disk_bytes=disk.free(),
        capacity_bytes=_capacity(node, disk),
        memory_tier_bytes=node.space.free("memory") if "memory" in node.stores else 0,
        reachable=node.directory.reachable,
    )
    described = node_ad(facts, node.config.policy.requirements, node.config.attributes)
    return described | {"Encryption": node.config.replication.encryption}


async def check(config: Config, matchmaker: Matchmaker) -> None:
    """Refuse to start with an expression of the configuration that could never hold. Raises `BadExpression`."""
    texts = {"[policy] requirements": config.policy.requirements}
    texts |= {f"[attributes] {name}": text for name, text in config.attributes.items()}
    for where, text in texts.items():
        if text.strip():
            try:
                await matchmaker.check(text)
            except BadExpression as error:
                raise BadExpression(f"{where}: {error.message}", hint=error.hint, **error.details) from None


def _capacity(node: Node, disk: Ledger) -> int:
    """Return what the disk tier can hold.

    In coarse steps where the partition decides, for that changes all the time.
    """
    limit = disk.limit()
    return limit if limit == node.config.store.capacity else coarse(limit)


def held_elsewhere(node: Node, set_id: str) -> bool:
    """Tell whether another node is known to have a copy of a set."""
    return any(
        entry.node.record.id != node.id and entry.holding.state in ("COMMITTED", "EXPIRED")
        for entry in node.holders(set_id)
    )


def holding(node: Node, row: ReplicaRow) -> Holding:
    """Return one replica as its holder describes it."""
    known = node.shelf.known[row.set_id]
    flight = node.transfers.get(row.set_id)
    committed = row.state == "COMMITTED"
    left = node.left(row.grant)
    tier = shown_tier(node, row)
    state: HoldingState = row.state
    if committed and left <= 0:
        state = "EXPIRED"
    elif row.state == "TRANSFERRING" and (flight is None or flight.progress.state == "starting"):
        state = "REQUESTED"
    return Holding(
        set_id=row.set_id,
        revision=known.record.revision,
        content=row.content,
        state=state,
        tier=tier,
        bytes_present=row.bytes if committed else (flight.progress.bytes_present if flight else 0),
        lease_seconds_left=left,
        set_lease_seconds_left=node.left(known.lease),
        reason=_reason(node, row),
        volatile=row.tier == "memory",
        bytes_per_second=flight.rate() if flight is not None and not committed else 0.0,
    )


def _reason(node: Node, row: ReplicaRow) -> str:
    """Return why a replica does not get on, or is less than was asked for; empty when all is well."""
    flight, upload = node.transfers.get(row.set_id), node.uploads.get(row.set_id)
    check = node.shelf.checks.get((row.content, row.tier))
    wanted = node.shelf.known[row.set_id].record.tier
    waits = flight is None and row.state == "TRANSFERRING"
    slower = row.state == "COMMITTED" and wanted == "memory" and shown_tier(node, row) != "memory"
    told = [
        flight.progress.reason if flight else "",
        own.reason if waits and (own := node.rejections.own(row.set_id)) else "",
        row.reason,
        check.reason if check else "",
        upload.reason if upload else "",
        NOT_IN_MEMORY if slower else "",
    ]
    return next((words for words in told if words), "")


def shown_tier(node: Node, row: ReplicaRow) -> Tier:
    """Return the tier that readers of this replica get."""
    return "memory" if (row.content, "memory") in node.shelf.contents else row.tier
