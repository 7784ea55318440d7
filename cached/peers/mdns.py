"""Finding members on the same link by multicast DNS: hints for the directory, never trusted.

Readiness and stop never wait for it: zeroconf runs in a thread of its own. The announcement carries the
cluster's id, so that neighbours of other clusters are not even dialled; whoever lies about that fails in the
TLS handshake. Where multicast does not work (no route, no permission), that is said once and the node goes
on without.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import socket
import threading
from collections.abc import Callable
from typing import Any

from cached.peers.advertise import is_loopback
from cached.peers.route import join_address, split_address

log = logging.getLogger(__name__)

SERVICE = "_cached._tcp.local."
_STOP_SECONDS = 1.0
_ASK_MS = 2000


class Mdns:
    """Announces this node and reports others of its cluster to `found`, in the event loop that called
    `start`.
    """

    def __init__(
        self, cluster_id: str, node_id: str, address: str, listen_host: str, found: Callable[[str], None]
    ) -> None:
        self._cluster_id = cluster_id
        self._node_id = node_id
        self._address = address
        self._listen_host = listen_host
        self._found = found
        self._loop: asyncio.AbstractEventLoop | None = None
        self._work: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin in the background; returns at once."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="cached-mdns", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Withdraw the announcement in the background; returns at once."""
        self._loop = None
        self._work.put(None)

    def join(self, seconds: float = _STOP_SECONDS) -> None:
        """Wait for the background to end, at most so long."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:  # noqa: BLE001 - it fails in many ways; all mean: go on without
            log.warning("no discovery by mDNS on this network: %s", error)

    def _serve(self) -> None:
        from zeroconf import InterfaceChoice, IPVersion, ServiceBrowser, Zeroconf

        interfaces: Any = InterfaceChoice.All
        if self._listen_host not in {"", "0.0.0.0", "::"}:  # noqa: S104 - a comparison
            interfaces = [self._listen_host]
        zeroconf = Zeroconf(interfaces=interfaces, ip_version=IPVersion.V4Only)
        try:
            info = self._info()
            # Others are looked for first: registering takes more than a second.
            ServiceBrowser(zeroconf, SERVICE, handlers=[self._on_service])
            if info is not None:
                zeroconf.register_service(info, cooperating_responders=True)
            while (name := self._work.get()) is not None:
                service = zeroconf.get_service_info(SERVICE, name, timeout=_ASK_MS)
                if service is not None:
                    self._report(service)
        finally:
            zeroconf.close()

    def _info(self) -> Any:
        from zeroconf import ServiceInfo

        host, port = split_address(self._address)
        with contextlib.suppress(OSError):
            host = socket.gethostbyname(host)
        if is_loopback(host) and not is_loopback(self._listen_host):
            return None  # nobody else could dial that
        return ServiceInfo(
            SERVICE,
            f"{self._node_id[:32]}.{SERVICE}",
            addresses=[socket.inet_aton(host)],
            port=port,
            properties={"cluster": self._cluster_id, "node": self._node_id},
            server=f"{self._node_id[:32]}.local.",
        )

    def _on_service(self, zeroconf: Any, service_type: str, name: str, state_change: Any) -> None:
        if getattr(state_change, "name", "") != "Removed" and self._node_id[:32] not in name:
            self._work.put(name)

    def _report(self, service: Any) -> None:
        said = service.decoded_properties
        loop = self._loop
        if said.get("cluster") != self._cluster_id or said.get("node") == self._node_id or loop is None:
            return
        for host in service.parsed_addresses():
            with contextlib.suppress(RuntimeError):  # the loop is closed: the daemon has stopped
                loop.call_soon_threadsafe(self._found, join_address(host, int(service.port)))
