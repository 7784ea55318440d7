"""All configuration keys: section, name and reader, in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from cached.config import values

Reader = Callable[[Any], Any]

#: Section to key to reader. The section `attributes` takes any key.
KEYS: Final[dict[str, dict[str, Reader]]] = {
    "node": {
        "name": values.label,
        "state_dir": values.path,
        "runtime_dir": values.socket_dir,
        "listen": values.address,
        "bittorrent": values.address,
        "advertise": values.text,
    },
    "store": {
        "disk": values.path,
        "capacity": values.size,
        "memory": values.optional_path,
        "memory_capacity": values.size,
    },
    "cluster": {
        "key_file": values.optional_path,
        "peers": values.addresses,
        "mdns": values.flag,
        "user_domain": values.text,
    },
    "replication": {
        "replicas": values.replicas,
        "methods": values.methods,
        "encryption": values.one_of("tls", "off"),
        "upload_limit": values.rate,
        "download_limit": values.rate,
    },
    "policy": {
        "requirements": values.expression,
        "max_lease": values.duration,
        "default_lease": values.duration,
        "quota": values.optional_size,
        "admins": values.texts,
    },
    "origin": {
        "buckets": values.buckets,
        "readers": values.count,
        "threads": values.count,
        "endpoint": values.url,
        "credentials": values.optional_path,
    },
    "objects": {
        "memory": values.optional_size,
        "disk": values.optional_size,
        "block": values.size,
        "redis": values.text,
        "freshness": values.freshness,
        "sharing": values.one_of("permission", "owner"),
    },
}
#: The section of free keys: ClassAd attribute names to expressions.
ATTRIBUTES: Final = "attributes"


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the known word nearest to `word`, or all of them."""
    import difflib  # wanted for errors only

    known = list(known)
    close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
