"""The ads of sets and nodes: CacheD's attribute names, HTCondor's units, and the requirements by default.

An ad is a JSON object. Values are strings, numbers, booleans and lists of them; an expression is `{"expr":
TEXT}`. Disk is in KiB and memory in MiB, as in HTCondor, each with a twin in bytes. What changes all the
time (free space, lease left) is published in coarse steps, so that a verdict stays valid for a while; the
receiver reserves on exact numbers anyway.

Requirements in force, `&&` between them:

- set: the default disk test, unless the owner's expression itself mentions disk (an attribute of
  `DISK_ATTRIBUTES`); the owner's expression; and for a set that is not public `ISOLATION`: a node that does
  not isolate users takes it for its own user only.
- node: the mirror of the disk test under the same condition, then the site's policy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from cached.errors import BadConfig, BadExpression
from cached.matching import expressions
from cached.sets.set import Method, SetRecord

Ad = dict[str, Any]

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
MAX_NAME = 64

#: The set must fit on the node's disk; sets of the memory tier must fit in its memory tier.
SET_DEFAULT = "MY.DiskUsage < TARGET.TotalDisk"
SET_DEFAULT_MEMORY = "MY.DiskUsageBytes < TARGET.MemoryTierBytes"
#: The mirror. A node lets the set side judge the memory tier.
NODE_DEFAULT = 'MY.TotalDisk > TARGET.DiskUsage || TARGET.CacheTier =?= "memory"'
ISOLATION = 'TARGET.Isolation == "uid" || TARGET.User =?= MY.Owner'
#: Whoever mentions one of these has thought about disk: the default test then gives way.
DISK_ATTRIBUTES = frozenset(
    ["diskusage", "diskusagebytes", "totaldisk", "totaldiskbytes", "disk", "memorytierbytes"]
)

#: What a site's [attributes] may not overwrite: identity, and facts that promises rest on.
_RESERVED = """
    cachedserver name nodeid machine totaldisk totaldiskbytes requirements mytype targettype isolation user
    reachable memorytierbytes daemonstarttime replicationmethods my target parent
"""
RESERVED = frozenset(_RESERVED.split())

#: CacheD's numbers for the states of a set.
_UNCOMMITTED, _COMMITTED = 1, 3


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a node knows about itself; sizes in bytes, exact."""

    node_id: str
    #: The node's label, and the host it runs on.
    name: str
    machine: str
    #: Free on the disk tier, as in CacheD's `TotalDisk`, and its capacity.
    total_disk_bytes: int
    capacity_bytes: int = 0
    #: Free in the memory tier, 0 without one.
    memory_tier_bytes: int = 0
    #: Physical memory.
    memory_bytes: int = 0
    cpus: int = 1
    #: As `uname` says: `x86_64`, `Linux`.
    arch: str = ""
    opsys: str = ""
    #: `uid` where jobs run as other users than the daemon, `none` where they share its uid.
    isolation: str = "uid"
    #: Owner name of the user whom the daemon runs as.
    user: str = ""
    reachable: bool = True
    #: Unix seconds.
    start_time: int = 0
    methods: tuple[Method, ...] = ("bittorrent", "direct")


def expr(text: str) -> dict[str, str]:
    """Tag `text` as an expression, to be a value in an ad."""
    return {"expr": text}


def is_expr(value: object) -> bool:
    """Say whether a value of an ad is an expression."""
    return isinstance(value, Mapping)


def plain(ad: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ad for people and for JSON answers: expressions as their bare text."""
    return {name: value["expr"] if is_expr(value) else value for name, value in ad.items()}


def coarse(value: float) -> int:
    """Round down to one of 64 steps for each power of two: less than 1.6 % below the value."""
    whole = max(int(value), 0)
    shift = max(whole.bit_length() - 7, 0)
    return whole >> shift << shift


def kib(size: int) -> int:
    """Return `size` bytes in KiB, rounded up."""
    return -(-size // 1024)


def set_ad(
    record: SetRecord,
    *,
    lease_seconds_left: float,
    requested: bool = False,
    replicas_count: int = 0,
    lease_expiration: int | None = None,
    originator_here: bool = False,
) -> Ad:
    """Return the ad of a set.

    `requested` says that a job asks for it now; `replicas_count` counts the live holders; `lease_expiration`
    (Unix seconds) is left out of ads that travel, since clocks differ. Raises `BadExpression` for
    requirements that are not an expression.
    """
    ad: Ad = {
        "MyType": "CacheSet",
        "TargetType": "CacheNode",
        "CacheName": record.name,
        "CacheId": record.id,
        "Owner": record.owner,
        "CacheState": _COMMITTED if record.status == "live" else _UNCOMMITTED,
        "CacheTier": record.tier,
        "CacheShare": record.share,
        "CacheFiles": record.files,
        "DiskUsage": kib(record.bytes),
        "DiskUsageBytes": record.bytes,
        "LeaseSecondsLeft": coarse(lease_seconds_left),
        "ReplicationMethods": ",".join(record.methods),
        "CacheOriginator": originator_here,
        "CacheOriginatorHost": record.originator_name or record.originator_host or record.originator,
        "CacheRequested": requested,
        "CacheReplicas": replicas_count,
        "Requirements": expr(set_requirements(record)),
    }
    if lease_expiration is not None:
        ad["LeaseExpiration"] = lease_expiration
    return ad


def set_requirements(record: SetRecord) -> str:
    """Return the requirements in force for a set: disk test, the owner's expression, isolation."""
    default = SET_DEFAULT_MEMORY if record.tier == "memory" else SET_DEFAULT
    parts = _with_default(default, record.requirements)
    if record.share != "public":
        parts.append(ISOLATION)
    return _joined(parts)


def node_ad(facts: NodeFacts, requirements: str = "", attributes: Mapping[str, str] | None = None) -> Ad:
    """Return the ad of a node, with its site's policy `requirements` and [attributes] (expressions by name).

    Raises `BadConfig` for an attribute that cannot be set and `BadExpression` for a text that is not an
    expression.
    """
    disk, memory_tier = coarse(facts.total_disk_bytes), coarse(facts.memory_tier_bytes)
    ad: Ad = {
        "MyType": "CacheNode",
        "TargetType": "CacheSet",
        "CachedServer": True,
        "Name": facts.name,
        "NodeId": facts.node_id,
        "Machine": facts.machine,
        "TotalDisk": disk // 1024,
        "TotalDiskBytes": disk,
        "Disk": disk // 1024,
        "CapacityBytes": facts.capacity_bytes,
        "MemoryTierBytes": memory_tier,
        "DetectedMemory": facts.memory_bytes >> 20,
        "Memory": facts.memory_bytes >> 20,
        "MemoryBytes": facts.memory_bytes,
        "DetectedCpus": facts.cpus,
        "Cpus": facts.cpus,
        "Arch": facts.arch.upper() if facts.arch.lower() == "x86_64" else facts.arch,
        "OpSys": facts.opsys.upper(),
        "Isolation": facts.isolation,
        "User": facts.user,
        "Reachable": facts.reachable,
        "DaemonStartTime": facts.start_time,
        "ReplicationMethods": ",".join(facts.methods),
        "Requirements": expr(node_requirements(requirements)),
    }
    for name, text in (attributes or {}).items():
        _join(ad, name, text)
    return ad


def node_requirements(policy: str) -> str:
    """Return the requirements in force for a node: the mirror of the disk test, and the site's policy."""
    return _joined(_with_default(NODE_DEFAULT, policy))


#: Only the shape counts here (brackets, so that joining is safe); whoever evaluates judges the functions.
_ANYTHING = ("*", "[]")


def _with_default(default: str, text: str) -> list[str]:
    if not text.strip():
        return [default]
    expressions.check_text(text, _ANYTHING)
    mentioned = {reference.name.lower() for reference in expressions.references(text)}
    return [text] if mentioned & DISK_ATTRIBUTES else [default, text]


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else " && ".join(f"({part})" for part in parts)


def _join(ad: Ad, name: str, text: str) -> None:
    if not NAME.fullmatch(name) or len(name) > MAX_NAME:
        raise BadConfig(f"[attributes] {name}: this cannot be the name of an attribute")
    if name.lower() in RESERVED:
        raise BadConfig(f"[attributes] {name}: this attribute is the node's own and cannot be set")
    try:
        expressions.check_text(text, _ANYTHING)
    except BadExpression as error:
        raise BadExpression(
            f"[attributes] {name}: {error.message}", hint=error.hint, **error.details
        ) from None
    for present in [known for known in ad if known.lower() == name.lower()]:
        del ad[present]
    ad[name] = literal(text)


def literal(text: str) -> Any:
    """Return the value of a text that is a plain literal, else the text tagged as an expression."""
    found = expressions.tokens(text)
    token = found[0]
    if len(found) > 1:
        return expr(text)
    if token.kind == "string" and "\\" not in token.text:
        return token.text[1:-1]
    if _INTEGER.fullmatch(token.text):
        return int(token.text)
    if token.is_word("true", "false"):
        return token.is_word("true")
    return expr(text)


_INTEGER = re.compile(r"0|[1-9][0-9]{0,17}")
