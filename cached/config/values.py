"""The configuration as values, and how each is read from what a person wrote.

A reader takes a TOML value, or the text of a flag or an environment variable, and returns the typed value or
raises `UsageError`.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec

from cached.addresses import bucket_name
from cached.errors import UsageError
from cached.units import parse_duration, parse_rate, parse_size

#: `replicas` for a copy on every node that matches.
ALL: Final = -1
#: Longest time for which a permission may be remembered, in seconds.
MAX_FRESHNESS: Final = 60


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Who this node is, and where it listens."""

    #: A label; made unique when taken.
    name: str
    #: Metadata and identity.
    state_dir: Path
    #: Holds api.sock and data.sock.
    runtime_dir: Path
    #: `host:port` of the peers' control port; port 0 picks one.
    listen: str
    #: `host:port` of the BitTorrent port; port 0 picks one.
    bittorrent: str
    #: Host, address or interface that peers dial; empty: found out.
    advertise: str


class StoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where bytes lie, and how many."""

    disk: Path
    #: Bytes.
    capacity: int
    #: None: no memory tier.
    memory: Path | None
    #: Bytes.
    memory_capacity: int


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Which nodes belong together."""

    #: None: an authority of its own.
    key_file: Path | None
    #: `host:port` of nodes to ask first; any one live member is enough.
    peers: tuple[str, ...]
    mdns: bool
    #: Users are `name@domain`; empty: the cluster is one domain.
    user_domain: str


class ReplicationConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How copies are made."""

    #: Copies of a new set besides the originator's; `ALL` for every node that matches.
    replicas: int
    methods: tuple[Literal["bittorrent", "direct"], ...]
    #: The stricter side wins.
    encryption: Literal["tls", "off"]
    #: Bytes per second; None: no limit.
    upload_limit: int | None
    download_limit: int | None


class PolicyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What this node agrees to."""

    #: ClassAd expression; empty: the default of `cached.matching.ads`.
    requirements: str
    #: Seconds.
    max_lease: int
    #: Seconds.
    default_lease: int
    #: Logical bytes per user on this node; None: no quota.
    quota: int | None
    #: Local users who may do everything here.
    admins: tuple[str, ...]


class OriginConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Cloud Storage behind the sets, read and written with the node's own account."""

    #: Bucket to the users who may name it: user names, `group:NAME`, or `*` for everybody.
    buckets: dict[str, tuple[str, ...]]
    #: Nodes that read one set from the origin at the same time, at most.
    readers: int
    #: Requests to the origin at the same time, at most.
    threads: int
    #: URL of the service; empty: Google's own, or the environment's `STORAGE_EMULATOR_HOST`.
    endpoint: str
    #: File with the account's credentials; None: what the environment provides.
    credentials: Path | None


class ObjectsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The cache of single objects."""

    #: Bytes in the memory tier, at most; None: no objects there.
    memory: int | None
    #: Bytes on disk, at most; None: no objects there.
    disk: int | None
    #: Larger objects are shared among nodes in blocks of so many bytes.
    block: int
    #: URL of a Redis server or cluster that the nodes share; empty: none.
    redis: str
    #: For how long a user who has been allowed an object is not asked about again, in seconds.
    freshness: int
    #: Who may read a copy: whoever Cloud Storage allows, or only the user who brought it.
    sharing: Literal["permission", "owner"]


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The whole configuration of one daemon."""

    node: NodeConfig
    store: StoreConfig
    cluster: ClusterConfig
    replication: ReplicationConfig
    policy: PolicyConfig
    origin: OriginConfig
    objects: ObjectsConfig
    #: Names to ClassAd expressions that join the node ad.
    attributes: dict[str, str]
    #: `section.key` to `default`, a file's path, `environment NAME` or `flag`.
    sources: dict[str, str]
    #: `section.key` to the value as it was written, after replacement of `{host}` and the like.
    written: dict[str, str]


def text(value: Any) -> str:
    """Read a string."""
    if not isinstance(value, str):
        raise UsageError(f"{value!r} is not a string", hint="put it in quotes")
    return value


def expression(value: Any) -> str:
    """Read a ClassAd expression; a bare TOML boolean or number stands for itself."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else text(value)


def label(value: Any) -> str:
    """Read a name for a node: what may stand after `@` in the name of a set."""
    name = text(value)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name):
        raise UsageError(
            f"{name!r} is not a name for a node", hint="letters, digits, dots, underscores, hyphens"
        )
    return name


def size(value: Any) -> int:
    """Read a number of bytes, more than none."""
    read = parse_size(value if isinstance(value, int) else text(value))
    if read == 0:
        raise UsageError("it cannot be 0")
    return read


def optional_size(value: Any) -> int | None:
    """Read a number of bytes; empty: None."""
    return None if value == "" else size(value)


def rate(value: Any) -> int | None:
    """Read bytes per second, `10MB/s`, `80Mbit/s` or a number; empty: None, which is no limit."""
    if value == "":
        return None
    read = parse_rate(value if isinstance(value, int) else text(value))
    if read == 0:
        raise UsageError("it cannot be 0: leave it out for no limit")
    return read


def duration(value: Any) -> int:
    """Read a duration in seconds."""
    return parse_duration(text(value))


def flag(value: Any) -> bool:
    """Read a boolean."""
    read = value if isinstance(value, bool) else _FLAGS.get(str(value).lower())
    if read is None:
        raise UsageError(f"{value!r} is neither true nor false")
    return read


_FLAGS: Final = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


def texts(value: Any) -> tuple[str, ...]:
    """Read a list of strings; as one text, separated by commas or written as in TOML."""
    parts = _listed(value) if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise UsageError(f"{value!r} is not a list of strings")
    return tuple(part.strip() for part in parts if part.strip())


def _listed(written: str) -> Any:
    if not written.lstrip().startswith("["):
        return written.split(",")
    try:
        return tomllib.loads(f"list = {written}")["list"]
    except tomllib.TOMLDecodeError:
        raise UsageError(f"{written!r} is not a list") from None


def path(value: Any) -> Path:
    """Read an absolute path."""
    read = Path(text(value))
    if not read.is_absolute():
        raise UsageError(f"{value!r} is not an absolute path")
    return Path(os.path.normpath(read))


def count(value: Any) -> int:
    """Read a number from 1 to 1,000."""
    number = int(value) if isinstance(value, str) and re.fullmatch(r"\d{1,4}", value, re.ASCII) else value
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= 1000:
        raise UsageError(f"{value!r} is not a number from 1 to 1000")
    return number


def freshness(value: Any) -> int:
    """Read a duration of at most a minute, in seconds: granting and revoking takes Cloud Storage as long."""
    seconds = duration(value)
    if seconds > MAX_FRESHNESS:
        raise UsageError(f"{value!r} is longer than {MAX_FRESHNESS} s", hint="0s asks on every open")
    return seconds


def url(value: Any) -> str:
    """Read `https://HOST[:PORT]`, or `http://...` of this machine, for users' tokens go there; empty: none."""
    if text(value) and not re.fullmatch(r"https?://[^\s/?#]+/?", value):
        raise UsageError(f"{value!r} is not the URL of a service", hint="for instance http://127.0.0.1:9023")
    if value.startswith("http://") and not _is_loopback(value):
        raise UsageError(
            f"{value!r} would send users' tokens in clear",
            hint="https://, or an emulator on this machine: http://127.0.0.1:9023",
        )
    return str(value).rstrip("/")


def _is_loopback(service: str) -> bool:
    try:
        host = urlsplit(service).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, or no host at all
        return False


def buckets(value: Any) -> dict[str, tuple[str, ...]]:
    """Read buckets and who may name them: a table of lists; as one text, `BUCKET=USER+USER, BUCKET=*`."""
    if isinstance(value, str):
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        value = {bucket.strip(): users.split("+") for bucket, _, users in pairs}
    if not isinstance(value, dict):
        raise UsageError(f"{value!r} is not a table of buckets", hint='for instance { genomes = ["*"] }')
    return {bucket_name(bucket): _users(bucket, users) for bucket, users in value.items()}


def _users(bucket: str, value: Any) -> tuple[str, ...]:
    users = texts(value)
    if not users:
        raise UsageError(f"nobody may name the bucket {bucket!r}", hint='list users, or "*" for everybody')
    return users


def optional_path(value: Any) -> Path | None:
    """Read an absolute path; empty: None."""
    return None if value == "" else path(value)


def socket_dir(value: Any) -> Path:
    """Read the absolute path of a directory for Unix sockets, whose addresses hold 107 bytes."""
    read = path(value)
    if len(os.fsencode(read / "data.sock")) > 107:
        raise UsageError(f"{value!r} is too long for a socket's address", hint="at most 97 bytes")
    return read


def address(value: Any) -> str:
    """Read `host:port`; an IPv6 host stands in brackets."""
    split_address(text(value))
    return str(value)


def addresses(value: Any) -> tuple[str, ...]:
    """Read a list of `host:port`."""
    return tuple(address(part) for part in texts(value))


def split_address(written: str) -> tuple[str, int]:
    """Return host and port of `host:port` or `[v6]:port`. Raises `UsageError`."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\s:\[\]/]+)):(\d{1,5})", written, re.ASCII)
    if found is None or int(found[3]) > 65_535:
        raise UsageError(f"{written!r} is not HOST:PORT", hint="for instance 0.0.0.0:7400")
    return found[1] or found[2], int(found[3])


def replicas(value: Any) -> int:
    """Read a number of replicas, or `all`."""
    if value == "all":
        return ALL
    number = value if isinstance(value, int) and not isinstance(value, bool) else None
    if isinstance(value, str) and re.fullmatch(r"\d{1,6}", value, re.ASCII):
        number = int(value)
    if number is None or number < 0:
        raise UsageError(f"{value!r} is not a number of replicas", hint='a number from 0, or "all"')
    return number


def methods(value: Any) -> tuple[str, ...]:
    """Read the replication methods allowed here, the preferred one first."""
    found = texts(value)
    if not found or set(found) - {"bittorrent", "direct"} or len(set(found)) < len(found):
        raise UsageError(f"{value!r} are not replication methods", hint="bittorrent, direct, or both")
    return found


def one_of(*choices: str) -> Callable[[Any], str]:
    """Return a reader of one word out of `choices`."""

    def read(value: Any) -> str:
        if value not in choices:
            raise UsageError(f"{value!r} is not one of {', '.join(choices)}")
        return str(value)

    return read
