"""One torrent in a libtorrent session: what is known of it, and the answers that come as alerts.

Adapter. `Session` delivers alerts; nothing here waits for libtorrent's network thread.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from cached.errors import CachedError, NoSpace, TimedOut
from cached.replication.layout import Layout
from cached.replication.partition import bits_of
from cached.replication.transfer import Traffic

_ANSWER_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Connection:
    """A connected member, as libtorrent sees it."""

    #: See `cached.replication.mesh.peer_id`; zeros before the handshake.
    peer_id: str
    endpoint: tuple[str, int]
    #: Payload bytes received on this connection.
    downloaded: int

    @property
    def nameless(self) -> bool:
        """It is still to say who it is."""
        return not self.peer_id.strip("\0")


@dataclass(frozen=True, slots=True)
class Pieces:
    """Where pieces are at one moment."""

    #: How many of the connected members have each.
    availability: list[int]
    #: Those of which some blocks are asked for, or there, and others are not: a set of bits.
    begun: int


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """Who is connected at one moment, and which piece how many of them have."""

    connections: tuple[Connection, ...]
    pieces: Pieces


def _pieces(handle: Any) -> Pieces:
    under_way = handle.get_download_queue()
    begun = (one["piece_index"] for one in under_way if not all(block["state"] for block in one["blocks"]))
    return Pieces(list(handle.piece_availability()), bits_of(begun))


def _look(handle: Any) -> Neighbourhood:
    pieces = _pieces(handle)
    connections = tuple(
        Connection(peer.pid.to_bytes().decode("latin-1"), tuple(peer.ip), peer.total_download)
        for peer in handle.get_peer_info()
    )
    return Neighbourhood(connections, pieces)


class Torrent:
    """A content in the session; created before it is added, valid until it is removed."""

    def __init__(self, layout: Layout, *, on_damage: Callable[[str], None] | None = None) -> None:
        self.layout = layout
        #: libtorrent's handle; None while the torrent is in no session.
        self.handle: Any = None
        #: Verified pieces, as a set of bits.
        self.have = 0
        self.bytes_have = 0
        self.hash_failures = 0
        #: Bytes per second that it may receive; None: no limit. See `Session.hold`.
        self.held_to: int | None = None
        #: Set when the torrent cannot go on.
        self.error: CachedError | None = None
        #: Set whenever pieces arrive or the torrent fails.
        self.news = asyncio.Event()
        #: Members have come or gone since the last look.
        self.stirred = True
        #: Where its members are; see `Session.drop`.
        self.addresses: set[str] = set()
        #: Told why, when a seed turns out not to have its bytes.
        self.on_damage = on_damage
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._all = (1 << len(layout.piece_sizes)) - 1

    @property
    def complete(self) -> bool:
        """All pieces are there and verified."""
        return self.have == self._all

    def assume_complete(self) -> None:
        """Count all pieces as there: the caller has verified the files."""
        self.have, self.bytes_have = self._all, sum(self.layout.piece_sizes)

    def expect(self, kind: str) -> asyncio.Future[Any]:
        """Return the future of the next answer of that kind; whoever asks at the same time shares it."""
        future = self._answers.get(kind)
        if future is None or future.done():
            future = self._answers[kind] = asyncio.get_running_loop().create_future()
        return future

    async def ready(self, timeout: float | None) -> None:
        """Wait until the torrent is added and, unless it is a seed, checked; learn what is there."""
        checked = self.expect("checked")
        self.handle = await asyncio.wait_for(self.expect("added"), _ANSWER_SECONDS)
        if timeout is not None:
            self.assume_complete()
            return
        await checked
        self._raise_error()
        status = await self.status()
        self.have = bits_of(index for index, there in enumerate(status["pieces"]) if there)
        sizes = self.layout.piece_sizes
        self.bytes_have = sum(sizes[index] for index, there in enumerate(status["pieces"]) if there)

    async def status(self) -> dict[str, Any]:
        """Ask libtorrent for `pieces` (a flag for each) and `traffic`."""
        import libtorrent as lt

        answer = self.expect("status")
        kind = lt.torrent_handle
        self.handle.post_status(kind.query_pieces | kind.query_accurate_download_counters)
        try:
            return cast("dict[str, Any]", await asyncio.wait_for(asyncio.shield(answer), _ANSWER_SECONDS))
        except TimeoutError:
            raise TimedOut("libtorrent does not answer", hint="the disk may hang: see the log") from None

    async def look(self) -> Neighbourhood:
        """Ask which piece how many members have, and who they are; who left or came just now may count in one alone."""
        self.stirred = False
        return await asyncio.to_thread(_look, self.handle)

    async def pieces(self) -> Pieces:
        """Ask only where pieces are: a fraction of the work of a look."""
        return await asyncio.to_thread(_pieces, self.handle)

    async def flush(self) -> None:
        """Wait until all that arrived is in the files."""
        answer = self.expect("flushed")
        self.handle.flush_cache()
        await answer
        self._raise_error()

    async def move(self, save_path: str) -> None:
        """Look for the files under another directory from now on; nothing is moved or checked."""
        import libtorrent as lt

        moved = self.expect("moved")
        self.handle.move_storage(save_path, lt.move_flags_t.reset_save_path_unchecked)
        await asyncio.wait_for(moved, _ANSWER_SECONDS)

    async def traffic(self) -> Traffic:
        """Return what this torrent has moved since it was added."""
        if self.handle is None:
            return Traffic()
        return cast("Traffic", (await self.status())["traffic"])

    def _raise_error(self) -> None:
        if self.error is not None:
            raise self.error

    def receive(self, kind: str, alert: Any) -> None:
        """Take an alert that concerns this torrent."""
        handler = _HANDLERS.get(kind)
        if handler is not None:
            handler(self, alert)

    def _answer(self, kind: str, value: Any = None) -> None:
        future = self._answers.pop(kind, None)
        if future is not None and not future.done():
            future.set_result(value)

    def _on_added(self, alert: Any) -> None:
        if alert.error.value():
            self.error = CachedError(f"BitTorrent refuses the content: {alert.error.message()}")
            future = self._answers.pop("added", None)
            if future is not None and not future.done():
                future.set_exception(self.error)
        else:
            self._answer("added", alert.handle)

    def _on_piece(self, alert: Any) -> None:
        index = alert.piece_index
        if not self.have >> index & 1:
            self.have |= 1 << index
            self.bytes_have += self.layout.piece_sizes[index]
        self.news.set()

    def _on_connection(self, _alert: Any) -> None:
        self.stirred = True

    def _on_hash_failed(self, alert: Any) -> None:
        self.hash_failures += 1
        if self.on_damage is not None and self.have >> alert.piece_index & 1:
            self.on_damage(f"piece {alert.piece_index} does not match")

    def _on_error(self, alert: Any) -> None:
        message, code = alert.error.message(), alert.error.value()
        where = getattr(alert, "filename", "")
        if self.on_damage is not None:
            self.on_damage(f"{where}: {message}")
            return
        if code in (errno.ENOSPC, errno.EDQUOT):
            self.error = NoSpace("no space left while receiving", hint="free space on the store's partition")
        else:
            self.error = CachedError(f"receiving failed: {message}", hint="check the disk", path=where)
        for kind in ("checked", "flushed"):
            self._answer(kind)
        self.news.set()

    def _on_state(self, alert: Any) -> None:
        """A seed that is checked again has met bytes that do not match."""
        if self.on_damage is not None and str(alert.state).startswith(("checking", "downloading")):
            self.on_damage("the files have changed since they were verified")

    def receive_status(self, status: Any) -> None:
        """Take a status that `ask` asked for."""
        traffic = Traffic(
            uploaded=status.total_payload_upload,
            downloaded=status.total_payload_download,
            redundant=status.total_redundant_bytes,
            failed=status.total_failed_bytes,
        )
        self._answer("status", {"pieces": list(status.pieces), "traffic": traffic})


_HANDLERS: dict[str, Callable[[Torrent, Any], None]] = {
    "add_torrent_alert": Torrent._on_added,
    "torrent_checked_alert": lambda torrent, _: torrent._answer("checked"),
    "cache_flushed_alert": lambda torrent, _: torrent._answer("flushed"),
    "torrent_removed_alert": lambda torrent, _: torrent._answer("removed"),
    "storage_moved_alert": lambda torrent, _: torrent._answer("moved"),
    "storage_moved_failed_alert": lambda torrent, _: torrent._answer("moved"),
    "piece_finished_alert": Torrent._on_piece,
    "peer_connect_alert": Torrent._on_connection,
    "peer_disconnected_alert": Torrent._on_connection,
    "hash_failed_alert": Torrent._on_hash_failed,
    "file_error_alert": Torrent._on_error,
    "torrent_error_alert": Torrent._on_error,
    "state_changed_alert": Torrent._on_state,
}
