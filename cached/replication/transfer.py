"""What describes moving a content between nodes: values shared by the BitTorrent and the direct adapter.

No I/O here. Node ids are hex text, byte counts are plain integers, hosts are addresses that can be dialled.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from cached.sets.digests import Digests
from cached.sets.manifest import Manifest

#: Seconds without a byte after which another way is tried, where there is one.
IMPATIENT: Final = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """A node that has, or is just fetching, a content."""

    node_id: str
    #: Address for the data plane; empty or port 0 when nothing can be dialled there.
    host: str
    bittorrent_port: int
    #: The node holds all bytes; otherwise it is a fetcher like us.
    complete: bool
    #: False for a node that nobody can dial: it dials itself.
    reachable: bool = True
    #: It gives streams on connections of their own, which threads read.
    bulk: bool = False


@dataclass(kw_only=True, slots=True)
class Progress:
    """How far a transfer is; written by the adapter about twice a second, read by anybody on the loop."""

    #: Verified bytes of the manifest's files that are on this node.
    bytes_present: int = 0
    bytes_wanted: int = 0
    #: `starting`, `checking`, `transferring`, `verifying` or `done`.
    state: str = "starting"
    #: Why nothing moves just now; empty while bytes flow.
    reason: str = ""
    #: Payload bytes received, by node id.
    by_source: dict[str, int] = field(default_factory=dict)
    #: Pieces or leaves that arrived and did not match.
    hash_failures: int = 0


#: `proved(path, first byte, leaves)`: bytes of a file that were found to be right, by their leaves. From any thread.
Proved = Callable[[str, int, bytes], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchJob:
    """One content to bring into `data`, where storage has made the directories, links and empty files.

    Other files are absent, or hold what an earlier attempt left: only bytes that verify are kept.
    """

    content: str
    manifest: Manifest
    #: Its leaves; or its coarse digests, which suffice for all replication methods.
    digests: Digests
    data: Path
    #: Of the torrent, as the offer names it; the direct method ignores it.
    piece_size: int = 0
    #: Nodes that are to get it at about the same time, this one included.
    receivers: int = 1
    progress: Progress = field(default_factory=Progress)
    #: Bring these files alone (the direct method only); None: all of them.
    only: frozenset[str] | None = None
    #: Files that are there, whole, and belong to other contents as well: nothing is ever written to them.
    linked: frozenset[str] = frozenset()
    #: Modification times in nanoseconds, by path, where they are known: what is made whole gets its own at once.
    times: Mapping[str, int] = field(default_factory=dict)
    #: Files that were made whole, with their final mode and time; the adapter adds them.
    made: set[str] = field(default_factory=set)
    #: Nothing of it is in `data` but what is linked: nobody need look.
    fresh: bool = False
    #: Who sent all of its bytes unasked, file after file as the leaves are, and the bytes.
    given: tuple[str, bytes] | None = None
    #: The digests are known to belong to the manifest's roots; otherwise that is looked at before use.
    proven: bool = False
    #: Told the leaves of what the direct method has found to be right.
    proved: Proved | None = None
    #: Told which parts of which files have come by a swarm: path, first byte, end; the pack's and twins are left out.
    arrived: Callable[[list[tuple[str, int, int]]], None] | None = None
    #: Whether a job waits for it now.
    first: Callable[[], bool] = lambda: False
    #: Whether there is another way to bring it: then this one is given up sooner.
    elsewhere: Callable[[], bool] = lambda: False

    def patience(self, usual: float) -> float:
        """Return how many seconds without a byte are borne; `usual` is that where there is no other way."""
        return min(usual, IMPATIENT) if self.elsewhere() else usual


@dataclass(frozen=True, kw_only=True, slots=True)
class TlsMaterial:
    """What mutual TLS between swarm members needs, all PEM."""

    root: str
    certificate: str
    key: str = field(repr=False)
    dh: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """Payload bytes that one content has caused on this node since the daemon started."""

    uploaded: int = 0
    downloaded: int = 0
    #: Received though already there.
    redundant: int = 0
    #: Received and thrown away, because they did not match.
    failed: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            uploaded=self.uploaded + other.uploaded,
            downloaded=self.downloaded + other.downloaded,
            redundant=self.redundant + other.redundant,
            failed=self.failed + other.failed,
        )


class Peer(Protocol):
    """The authenticated other end of a call, as `cached.peers.link` hands it over."""

    @property
    def node_id(self) -> str:
        """Node id from the peer's certificate."""


#: The members of a swarm as the directory knows them now; asked again and again while a transfer runs.
Holders = Callable[[], Sequence[Holder]]
#: `call(node_id, method, body)`: one request to a peer's daemon.
Call = Callable[[str, str, dict[str, Any]], Awaitable[dict[str, Any]]]
#: `allowed(peer_node_id, content)`: whether that node may have these bytes from here.
Allowed = Callable[[str, str], bool]
