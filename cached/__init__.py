"""Peer-to-peer, leased cache sets: what a job imports.

    with cached.open("nr/nr.00.psq") as file: ...
    with cached.open("gs://genomes/hg38.fa") as file: ...
    with cached.open("gs://results/run7.csv", "wb") as file: ...
    cached.dump(array, "gs://results/run7"); cached.load("gs://results/run7")
    cached.Client().create("nr", ["./nr-db"])

Importing this costs next to nothing; the client is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

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
    OriginChanged,
    OriginUnavailable,
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

    from cached.client import AsyncClient, Client, ObjectWriter
    from cached.client.dumps import Trust
    from cached.wire import ObjectView

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
    "OriginChanged",
    "OriginUnavailable",
    "PeerUnreachable",
    "QuotaExceeded",
    "Refused",
    "RequirementsRefused",
    "SourceChanged",
    "TimedOut",
    "UnsupportedFile",
    "UsageError",
    "dump",
    "errors",
    "load",
    "open",
]

_client: Client | None = None


@overload
def open(  # noqa: A001 - `cached.open` is the contract
    ref_path: str, mode: Literal["rb"] = "rb", *, fetch: bool = True, **wishes: Any
) -> io.BufferedReader: ...


@overload
def open(  # noqa: A001
    ref_path: str, mode: Literal["wb"], *, fetch: bool = True, **wishes: Any
) -> ObjectWriter: ...


def open(  # noqa: A001
    ref_path: str, mode: str = "rb", *, fetch: bool = True, **wishes: Any
) -> io.BufferedReader | ObjectWriter:
    """Open a file of a set, `[OWNER:]NAME[@NODE]/PATH`, or an object, `gs://BUCKET/OBJECT`, for reading bytes.

    Objects can also be written, with mode "wb": they are stored when the file is closed, and not at all when the
    `with` around it ends with an exception. See `Client.open`, and for the `wishes` of objects `Client.open_object` and
    `Client.write_object`.
    """
    if mode not in ("rb", "wb"):
        raise UsageError(
            f"mode {mode!r}: what is opened here is bytes", hint="io.TextIOWrapper(cached.open(PATH)) is text"
        )
    return _own_client().open(ref_path, mode, fetch=fetch, **wishes)


def dump(obj: Any, address: str, **wishes: Any) -> ObjectView:
    """Pickle a Python object into Cloud Storage, `gs://BUCKET/OBJECT`; see `Client.dump`."""
    return _own_client().dump(obj, address, **wishes)


def load(address: str, *, trust: Trust = None, **wishes: Any) -> Any:
    """Return a Python object that this user dumped, its arrays as read-only views of shared memory; see `Client.load`.

    Unpickling runs code: `trust` names other users whose dumps are loaded too, or is "anyone".
    """
    return _own_client().load(address, trust=trust, **wishes)


def _own_client() -> Client:
    global _client
    if _client is None:
        from cached.client import Client

        _client = Client()
    return _client


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in ("Client", "AsyncClient"):
        from cached import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
