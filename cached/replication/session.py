"""One libtorrent session: its settings, its alerts on the event loop, and nothing about who wants what.

Adapter for libtorrent 2.1. Calls that would wait for libtorrent's network thread are made in a thread or not
at all: questions are asked by `post_*`, answers come as alerts. Alerts wake the loop through a socket pair,
never through a callback (that can deadlock on the interpreter's lock), and their fields are copied before the
next ones are taken: then they are gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import Any, cast

from cached.errors import CachedError
from cached.replication.mesh import peer_id
from cached.replication.queues import Queues
from cached.replication.torrent import Torrent
from cached.replication.transfer import TlsMaterial

log = logging.getLogger(__name__)

_MIB = 1024 * 1024
_OPEN_SECONDS = 30.0
#: Requests that a member may keep here before anything is known of its swarm.
_QUEUE = 16
#: Far above what the largest sets need; the torrents are our own work, not a stranger's.
LOAD_LIMITS = {
    "max_buffer_size": 512 * _MIB,
    "max_pieces": 2**21 - 1,
    "max_decode_tokens": 50_000_000,
    "max_decode_depth": 100,
}


def settings(*, listen: str, node_id: str, tls: bool, upload_limit: int | None) -> dict[str, Any]:
    """Return libtorrent's settings for a node; `listen` is `address:port`.

    Measured: without whole-piece picking and with short queues pieces leave the source about once; uTP is
    slow on local networks; members that are idle for a moment must stay connected, and be dialled again soon.
    """
    return {
        "listen_interfaces": listen + ("s" if tls else ""),
        "max_retry_port_bind": 0,
        "listen_system_port_fallback": False,
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "enable_ip_notifier": False,
        "enable_incoming_utp": False,
        "enable_outgoing_utp": False,
        "webtorrent_stun_server": "",
        "in_enc_policy": 2,
        "out_enc_policy": 2,
        "mixed_mode_algorithm": 0,
        "peer_fingerprint": peer_id(node_id),
        "user_agent": "cached",
        "whole_pieces_threshold": 0,
        "initial_picker_threshold": 0,
        "allowed_fast_set_size": 0,
        "suggest_mode": 0,
        "max_allowed_in_request_queue": _QUEUE,
        "unchoke_slots_limit": -1,
        "peer_turnover": 0,
        "close_redundant_connections": False,
        "allow_multiple_connections_per_ip": True,
        "min_reconnect_time": 0,
        "max_failcount": 1000,
        "smooth_connects": False,
        "connection_speed": 500,
        "torrent_connect_boost": 100,
        "connections_limit": 8000,
        "listen_queue_size": 3000,
        "peer_timeout": 20,
        "request_timeout": 10,
        "inactivity_timeout": 3600,
        "send_buffer_watermark": 3 * _MIB,
        "send_buffer_low_watermark": _MIB,
        "send_not_sent_low_watermark": 512 * 1024,
        "max_peer_recv_buffer_size": 5 * _MIB,
        "max_queued_disk_bytes": 64 * _MIB,
        "file_pool_size": 500,
        "no_atime_storage": True,
        "active_downloads": -1,
        "active_seeds": -1,
        "active_checking": -1,
        "active_limit": -1,
        "alert_queue_size": 200_000,
        "rate_limit_ip_overhead": False,
        **limits(upload_limit),
    }


def limits(upload_limit: int | None) -> dict[str, Any]:
    """Return the settings that limit uploads; a limiter with libtorrent's usual tick delays every message by 0.5 s."""
    return {"upload_rate_limit": upload_limit or 0, "tick_interval": 100 if upload_limit else 500}


def check_port(host: str, port: int) -> None:
    """Raise `CachedError` when the port is taken: to be found out early, since libtorrent starts later."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CachedError(
                f"BitTorrent cannot listen on {host}:{port}: {error.strerror}",
                hint="choose another port in [node] bittorrent",
            ) from error


class Session:
    """A running libtorrent session and the torrents in it, by content id."""

    def __init__(
        self, *, listen: str, node_id: str, tls: TlsMaterial | None, upload_limit: int | None
    ) -> None:
        self._settings = settings(
            listen=listen, node_id=node_id, tls=tls is not None, upload_limit=upload_limit
        )
        self.tls = tls
        self.torrents: dict[str, Torrent] = {}
        self.port = 0
        self._lt: Any = None
        self._session: Any = None
        self._wake: tuple[socket.socket, socket.socket] | None = None
        self._listening: asyncio.Future[int] | None = None
        #: Addresses that a torrent refuses to talk to, by content id.
        self._dropped: dict[str, str] = {}
        self._queues = Queues()

    async def open(self) -> None:
        """Start libtorrent and wait until it listens; raise `CachedError` when the port is taken."""
        loop = asyncio.get_running_loop()
        self._listening = loop.create_future()
        await asyncio.to_thread(self._start)
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        self._wake = (near, far)
        loop.add_reader(near.fileno(), self._on_wake)
        self._session.set_alert_fd(far.fileno())
        self._take_alerts()
        try:
            self.port = await asyncio.wait_for(self._listening, _OPEN_SECONDS)
        except TimeoutError:
            await self.close()
            raise CachedError("BitTorrent does not begin to listen", hint="see the log") from None
        except CachedError:
            await self.close()
            raise

    def _start(self) -> None:
        import libtorrent as lt

        self._lt = lt
        parameters = lt.session_params()
        self._settings |= {
            "alert_mask": lt.alert_category.error
            | lt.alert_category.status
            | lt.alert_category.storage
            | lt.alert_category.performance_warning
            | lt.alert_category.piece_progress,
        }
        parameters.settings = cast("Any", self._settings)
        parameters.disk_io_constructor = "posix_disk_io_constructor"
        self._session = lt.session(parameters)
        # Addresses of local networks would escape the limits otherwise: they are in a class of their own.
        self._limit_local_class(self._settings["upload_rate_limit"])

    async def close(self) -> None:
        """Stop libtorrent; torrents are gone without a word to their users."""
        if self._wake is not None:
            near, far = self._wake
            asyncio.get_running_loop().remove_reader(near.fileno())
            self._session.set_alert_fd(-1)
            self._wake = None
            near.close()
            far.close()
        session, self._session = self._session, None
        for torrent in self.torrents.values():
            torrent.handle = None
        self.torrents.clear()
        if session is not None:
            session.pause()
            holder = [session]
            del session
            await asyncio.to_thread(holder.clear)

    def apply(self, **values: Any) -> None:
        """Change settings while running."""
        self._session.apply_settings(values)

    def advertise(self, content: str, queue: int) -> None:
        """Say how many requests members of a content's swarm may keep here; counts for connections that begin soon."""
        shown = self._queues.wish(content, queue, asyncio.get_running_loop().time())
        if self._settings["max_allowed_in_request_queue"] != shown:
            self._settings["max_allowed_in_request_queue"] = shown
            self.apply(max_allowed_in_request_queue=shown)

    def set_upload_limit(self, limit: int | None) -> None:
        """Limit what leaves this node through BitTorrent, in bytes per second; `None` lifts the limit."""
        self._settings |= limits(limit)
        if self._session is not None:
            self.apply(**limits(limit))
            self._limit_local_class(limit or 0)

    def _limit_local_class(self, limit: int) -> None:
        local = self._session.get_peer_class(self._lt.session.local_peer_class_id)
        local["upload_limit"] = limit
        self._session.set_peer_class(self._lt.session.local_peer_class_id, local)

    async def add(
        self, torrent: Torrent, *, metadata: bytes, save_path: str, files: dict[int, str], seed: bool
    ) -> None:
        """Add a torrent; paths in `files` are relative to `save_path`, or absolute.

        A seed is trusted to be whole and runs at once; a fetch is checked first and waits to be resumed.
        """
        lt = self._lt
        parameters = await asyncio.to_thread(lt.load_torrent_buffer, metadata, LOAD_LIMITS)
        flags = lt.torrent_flags
        parameters.flags = (
            flags.disable_dht | flags.disable_lsd | flags.disable_pex | flags.duplicate_is_error
        )
        parameters.flags |= flags.seed_mode if seed else flags.stop_when_ready
        parameters.save_path = save_path
        parameters.renamed_files = files
        parameters.max_connections = 1000
        if not seed:
            parameters.piece_priorities = [0] * len(torrent.layout.piece_sizes)
        if self.tls is not None:
            parameters.root_certificate = self.tls.root
        self.torrents[torrent.layout.content] = torrent
        self._session.async_add_torrent(parameters)
        try:
            await torrent.ready(_OPEN_SECONDS if seed else None)
        except BaseException:
            await self.remove(torrent)
            raise

    async def remove(self, torrent: Torrent) -> None:
        """Take the torrent out; when this returns libtorrent does not touch its files any more."""
        content = torrent.layout.content
        self._queues.drop([content])
        self.readmit(torrent)
        if self._session is not None and torrent.handle is not None:
            removed = torrent.expect("removed")
            self._session.remove_torrent(torrent.handle)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(removed, _OPEN_SECONDS)
        torrent.handle = None
        if self.torrents.get(content) is torrent:
            del self.torrents[content]

    def drop(self, torrent: Torrent, address: str) -> bool:
        """Keep the torrent away from an address; False, and no change, when another torrent would suffer.

        libtorrent's Python binding has no way to close one connection; its address filter has, and each
        torrent may heed it.
        """
        for other in self.torrents.values():
            dropped = self._dropped.get(other.layout.content)
            if dropped is not None and (address in other.addresses or dropped in torrent.addresses):
                return False
        self._dropped[torrent.layout.content] = address
        self._filter()
        torrent.handle.set_flags(self._lt.torrent_flags.apply_ip_filter)
        return True

    def readmit(self, torrent: Torrent) -> None:
        """Undo `drop`."""
        if self._dropped.pop(torrent.layout.content, None) is None or self._session is None:
            return
        if torrent.handle is not None:
            torrent.handle.unset_flags(self._lt.torrent_flags.apply_ip_filter)
        self._filter()

    def _filter(self) -> None:
        rules = self._lt.ip_filter()
        for address in self._dropped.values():
            rules.add_rule(address, address, 1)
        self._session.set_ip_filter(rules)

    def _on_wake(self) -> None:
        assert self._wake is not None
        with contextlib.suppress(BlockingIOError):
            while len(self._wake[0].recv(4096)) == 4096:
                pass
        self._take_alerts()

    def _take_alerts(self) -> None:
        for alert in self._session.pop_alerts():
            kind = type(alert).__name__
            torrent = self.torrents.get(getattr(alert, "torrent_name", ""))
            if kind == "torrent_need_cert_alert" and self.tls is not None:
                alert.handle.set_ssl_certificate_buffer(self.tls.certificate, self.tls.key, self.tls.dh)
            elif torrent is not None:
                torrent.receive(kind, alert)
            elif kind == "state_update_alert":
                self._receive_status(alert)
            else:
                self._receive(kind, alert)

    def _receive_status(self, alert: Any) -> None:
        for status in alert.status:
            info_hash = str(status.info_hashes.v2)
            for torrent in self.torrents.values():
                if torrent.layout.info_hash == info_hash:
                    torrent.receive_status(status)

    def _receive(self, kind: str, alert: Any) -> None:
        listening = self._listening
        if kind == "listen_succeeded_alert" and listening is not None and not listening.done():
            listening.set_result(alert.port)
        elif kind == "listen_failed_alert" and listening is not None and not listening.done():
            listening.set_exception(
                CachedError(
                    f"BitTorrent cannot listen on {alert.address}:{alert.port}: {alert.error.message()}",
                    hint="choose another port in [node] bittorrent",
                )
            )
        elif kind in ("alerts_dropped_alert", "session_error_alert", "performance_alert"):
            log.warning("libtorrent: %s", alert.message())
