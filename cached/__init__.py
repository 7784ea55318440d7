"""Peer-to-peer, leased cache sets: what a job imports.

    with cached.open("nr/nr.00.psq") as file: ...
    cached.Client().create("nr", ["./nr-db"])

Importing this costs next to nothing; the client is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cached import errors
from cached.errors import (
    AmbiguousName,
    BadConfig,
    BadExpression,
    BadName,
    Busy,
    CachedError,
    DaemonUnreachable,
    Forbidden,
    IntegrityFailed,
    LeaseRefused,
    NameTaken,
    NoSource,
    NoSpace,
    NotFound,
    PeerUnreachable,
    QuotaExceeded,
    Refused,
    RequirementsRefused,
    SourceChanged,
    TimedOut,
    UnsupportedFile,
    UsageError,
)

if TYPE_CHECKING:
    import io

    from cached.client import AsyncClient, Client

__all__ = [
    "AmbiguousName",
    "AsyncClient",
    "BadConfig",
    "BadExpression",
    "BadName",
    "Busy",
    "CachedError",
    "Client",
    "DaemonUnreachable",
    "Forbidden",
    "IntegrityFailed",
    "LeaseRefused",
    "NameTaken",
    "NoSource",
    "NoSpace",
    "NotFound",
    "PeerUnreachable",
    "QuotaExceeded",
    "Refused",
    "RequirementsRefused",
    "SourceChanged",
    "TimedOut",
    "UnsupportedFile",
    "UsageError",
    "errors",
    "open",
]

_client: Client | None = None


def open(ref_path: str, *, fetch: bool = True) -> io.BufferedReader:  # noqa: A001 - `cached.open` is the contract
    """Open a file of a set, `[OWNER:]NAME[@NODE]/PATH`, for reading; see `Client.open`."""
    global _client
    if _client is None:
        from cached.client import Client

        _client = Client()
    return _client.open(ref_path, fetch=fetch)


def __getattr__(name: str) -> Any:
    if name in ("Client", "AsyncClient"):
        from cached import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
