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
from collections.abc import Collection
from typing import Any, cast

from cached.errors import CachedError, TimedOut
from cached.replication import pace, port
from cached.replication.mesh import peer_id
from cached.replication.queues import Queues
from cached.replication.torrent import Torrent
from cached.replication.transfer import TlsMaterial

log = logging.getLogger(__name__)

_MIB = 1024 * 1024
_OPEN_SECONDS = 30.0
_CLOSE_SECONDS = 5.0
#: A member may fail as often as that: whom to dial is not libtorrent's decision.
_FAILURES = 1000
#: Requests that a member may keep here before anything is known of its swarm.
_QUEUE = 16
#: Bytes that wait for a slow member's line at once: what is asked for waits behind them. With 32 KiB two receivers
#: without a limit took a fifth longer.
_AHEAD = 128 * 1024
#: Far above what the largest sets need; the torrents are our own work, not a stranger's.
LOAD_LIMITS = {
    "max_buffer_size": 512 * _MIB,
    "max_pieces": 2**21 - 1,
    "max_decode_tokens": 50_000_000,
    "max_decode_depth": 100,
}


def settings(*, listen: str, node_id: str, tls: bool) -> dict[str, Any]:
    """Return libtorrent's settings for a node; `listen` is `address:port`.

    Measured: without whole-piece picking and with short queues pieces leave the source about once; uTP is
    slow on local networks; members that are idle for a moment must stay connected, and be dialled again soon; what
    members show bounds the queues, not the rate of late: who waits would ask for less, and wait on (ADR 33).
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
        "send_redundant_have": False,
        "max_allowed_in_request_queue": _QUEUE,
        "unchoke_slots_limit": -1,
        "peer_turnover": 0,
        "close_redundant_connections": False,
        "allow_multiple_connections_per_ip": True,
        "min_reconnect_time": 0,
        "max_failcount": _FAILURES,
        "smooth_connects": False,
        "connection_speed": 500,
        "torrent_connect_boost": 100,
        "connections_limit": 8000,
        "listen_queue_size": 3000,
        "peer_timeout": 20,
        "request_timeout": 10,
        "request_queue_time": 10,
        "inactivity_timeout": 3600,
        "send_buffer_watermark": 3 * _MIB,
        "send_buffer_low_watermark": _AHEAD,
        "send_not_sent_low_watermark": _AHEAD,
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
        "tick_interval": pace.USUAL,
    }


def _limit(rate: int | None) -> int:
    """Return what libtorrent is told, 0 for no limit: it counts in 32 bits, and comes nowhere near the largest."""
    return 0 if rate is None or rate >= 2**31 else rate


def _destroy(holder: list[Any], number: int) -> None:
    if number and not port.silence(number, _CLOSE_SECONDS):
        log.warning("connections to port %d do not end: libtorrent may fail now", number)
    holder.clear()


class Session:
    """A running libtorrent session and the torrents in it, by content id."""

    def __init__(self, *, listen: str, node_id: str, tls: TlsMaterial | None) -> None:
        self._settings = settings(listen=listen, node_id=node_id, tls=tls is not None)
        #: Bytes per second, out and in; None: no limit.
        self._limits: tuple[int | None, int | None] = (None, None)
        self._moved: asyncio.Future[tuple[int, int]] | None = None
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
        self._pace = pace.Pace(self._turn)

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
        kinds = ("error", "status", "storage", "performance_warning", "piece_progress", "connect")
        self._settings["alert_mask"] = sum(getattr(lt.alert_category, kind) for kind in kinds)
        parameters.settings = cast("Any", self._settings)
        parameters.disk_io_constructor = "posix_disk_io_constructor"
        self._session = lt.session(parameters)
        self._gather_in_one_class()
        self._apply_limits()

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
        self._pace.close()
        for torrent in self.torrents.values():
            torrent.handle = None
        self.torrents.clear()
        if session is not None:
            session.pause()
            holder = [session]
            del session
            await asyncio.to_thread(_destroy, holder, self.port)

    def _turn(self, tick: int) -> None:
        self._settings["tick_interval"] = tick
        if self._session is not None:
            self.apply(tick_interval=tick)

    def apply(self, **values: Any) -> None:
        """Change settings while running."""
        self._session.apply_settings(values)

    def advertise(self, content: str, queue: int) -> None:
        """Say how many requests members of a content's swarm may keep here; counts for connections that begin soon."""
        shown = self._queues.wish(content, queue, asyncio.get_running_loop().time())
        if self._settings["max_allowed_in_request_queue"] != shown:
            self._settings["max_allowed_in_request_queue"] = shown
            self.apply(max_allowed_in_request_queue=shown)

    def limit(self, upload: int | None, download: int | None) -> None:
        """Limit what all torrents together send and receive, in bytes per second; None: no limit."""
        if (upload, download) == self._limits:
            return
        self._limits = (upload, download)
        if self._session is not None:
            self._apply_limits()

    def hold(self, held: Collection[str], rate: int) -> None:
        """Limit what the torrents of these contents receive to `rate` bytes per second together, and no others."""
        share = max(1, rate // max(1, sum(content in held for content in self.torrents)))
        for content, torrent in self.torrents.items():
            wanted = share if content in held else None
            if wanted != torrent.held_to and torrent.handle is not None:
                torrent.held_to = wanted
                torrent.handle.set_download_limit(wanted or -1)
        self._tick()

    async def moved(self) -> tuple[int, int]:
        """Return the payload bytes sent and received so far; raise `TimedOut` when libtorrent does not answer."""
        if self._session is None:
            return 0, 0
        if self._moved is None or self._moved.done():
            self._moved = asyncio.get_running_loop().create_future()
            self._session.post_session_stats()
        try:
            return await asyncio.wait_for(asyncio.shield(self._moved), _OPEN_SECONDS)
        except TimeoutError:
            raise TimedOut("libtorrent does not answer", hint="see the log") from None

    def _gather_in_one_class(self) -> None:
        """Put all members into the class of local networks: limits are kept by class, and each would have its own."""
        everybody = self._lt.ip_filter()
        local = self._lt.session.local_peer_class_id
        everybody.add_rule("0.0.0.0", "255.255.255.255", 1 << local)  # noqa: S104 - a range, nothing binds
        everybody.add_rule("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 1 << local)
        self._session.set_peer_class_filter(everybody)

    def _apply_limits(self) -> None:
        local = self._lt.session.local_peer_class_id
        facts = self._session.get_peer_class(local)
        facts["upload_limit"], facts["download_limit"] = (_limit(rate) for rate in self._limits)
        self._session.set_peer_class(local, facts)
        self._tick()

    def hurry(self) -> None:
        """Have the members that were dialled connected at once, not at the next full second (ADR 22)."""
        if self._session is None:
            return
        # A torrent keeps its own idea of it, three, until the setting changes: then members stay missing for good.
        self._settings["max_failcount"] = 2 * _FAILURES + 1 - self._settings["max_failcount"]
        self.apply(max_failcount=self._settings["max_failcount"])
        self._pace.hurry()

    def _tick(self) -> None:
        """Let libtorrent turn as often as what it does wants it."""
        torrents = self.torrents.values()
        limited = any(self._limits) or any(one.held_to for one in torrents)
        self._pace.set(limited=limited, fetching=not all(one.complete for one in torrents))

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
        self._tick()

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
            self._tick()

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

    def fetched(self, torrent: Torrent) -> None:
        """Take note that a torrent is not fetched any more."""
        self.readmit(torrent)
        self._tick()

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
            elif kind == "session_stats_alert":
                self._receive_stats(alert.values)
            else:
                self._receive(kind, alert)

    def _receive_status(self, alert: Any) -> None:
        for status in alert.status:
            info_hash = str(status.info_hashes.v2)
            for torrent in self.torrents.values():
                if torrent.layout.info_hash == info_hash:
                    torrent.receive_status(status)

    def _receive_stats(self, values: dict[str, int]) -> None:
        if self._moved is not None and not self._moved.done():
            self._moved.set_result((values["net.sent_payload_bytes"], values["net.recv_payload_bytes"]))

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
