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


def open(  # noqa: A001 - `cached.open` is the contract
    ref_path: str, mode: str = "rb", *, fetch: bool = True
) -> io.BufferedReader:
    """Open a file of a set, `[OWNER:]NAME[@NODE]/PATH`, for reading bytes; see `Client.open`.

    `mode` is there for who is used to give one.
    """
    global _client
    if mode != "rb":
        raise UsageError(
            f"mode {mode!r}: sets are read as bytes", hint="io.TextIOWrapper(cached.open(PATH)) is text"
        )
    if _client is None:
        from cached.client import Client

        _client = Client()
    return _client.open(ref_path, fetch=fetch)


def __getattr__(name: str) -> Any:
    if name in ("Client", "AsyncClient"):
        from cached import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
