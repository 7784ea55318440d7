"""What the owner of a set may ask for, checked once, with the node's defaults filled in."""

from __future__ import annotations

from dataclasses import dataclass

from cached import wire
from cached.addresses import parse_prefix
from cached.errors import Refused, UsageError
from cached.node.node import Node
from cached.sets.names import check_scope, check_share
from cached.sets.set import ALL, Method, SetRecord, Tier

#: What a creator may leave to the node.
_OPTIONS = ("requirements", "share", "replicas", "methods", "tier", "scope")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The checked wishes of a creator."""

    requirements: str
    share: str
    replicas: int
    methods: tuple[Method, ...]
    tier: Tier
    min_lease_seconds: int
    scope: str
    #: `gs://BUCKET/PREFIX` where the set is to be kept as well; empty: nowhere.
    origin: str
    replace: bool
    #: Names of the options that the creator chose, of `_OPTIONS`; the others are filled in.
    chosen: frozenset[str] = frozenset()

    def same(self, record: SetRecord) -> bool:
        """Tell whether an existing set already has the options that the creator chose.

        One that is kept nowhere may be kept somewhere from now on.
        """
        if self.origin and record.origin not in ("", self.origin):
            return False
        return all(getattr(self, name) == getattr(record, name) for name in self.chosen)


async def wanted(node: Node, options: wire.CreateOptions) -> Wanted:
    """Check the options of a create. Raises `UsageError`, `BadExpression` or `Refused`."""
    if options.origin and options.source_set:
        raise UsageError("a set made with --from-set is kept where it was", hint="leave --origin out")
    replicas = options.replicas if options.replicas is not None else node.config.replication.replicas
    return Wanted(
        requirements=await requirements(node, options.requirements or ""),
        share=share("private" if options.share is None else options.share),
        replicas=replica_count(replicas),
        methods=methods(options.methods if options.methods is not None else node.config.replication.methods),
        tier=tier(node, options.tier or "disk"),
        min_lease_seconds=options.min_lease_seconds,
        scope=check_scope(options.scope or ""),
        origin=origin(options.source_set or options.origin),
        replace=options.replace,
        chosen=frozenset(name for name in _OPTIONS if getattr(options, name) is not None),
    )


def origin(text: str) -> str:
    """Return where a set is to be kept, without the slash at the end. Raises `UsageError`."""
    return str(parse_prefix(text)).rstrip("/") if text else ""


async def requirements(node: Node, expression: str) -> str:
    """Return the expression when it parses and uses only what is allowed. Raises `BadExpression`."""
    if expression.strip():
        await node.matchmaker.check(expression)
    return expression.strip()


def share(value: str) -> str:
    """Return `private`, `public` or `group:NAME`. Raises `UsageError`."""
    check_share(value)
    return value


def replica_count(value: int) -> int:
    """Return a number of replicas, `ALL` included. Raises `UsageError`."""
    if value == ALL or 0 <= value <= 1_000_000:
        return value
    raise UsageError(f"{value} is not a number of replicas", hint="0 or more, or all")


def methods(values: tuple[str, ...]) -> tuple[Method, ...]:
    """Return the methods in the order given, each once. Raises `UsageError`."""
    known: tuple[Method, ...] = ("bittorrent", "direct")
    unknown = [value for value in values if value not in known]
    if unknown or not values:
        raise UsageError(
            f"{', '.join(unknown) or 'nothing'} is no replication method", hint="bittorrent, direct, or both"
        )
    return tuple(method for method in dict.fromkeys(values) if method in known)


def tier(node: Node, value: str) -> Tier:
    """Return the tier when this node has it. Raises `Refused`."""
    if value == "memory" and "memory" not in node.stores:
        raise Refused(
            "this node has no memory tier", hint="--tier disk, or set [store] memory in its configuration"
        )
    return "memory" if value == "memory" else "disk"
