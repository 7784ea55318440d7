"""TLS between peers: version 1.3, both sides show a certificate of the cluster, and a connection leads to
the node meant.

The node id is checked inside the handshake, so that no byte of a request goes to the wrong node, or comes
from a node that was revoked. Peers dial the name `NODEID.node`, which travels as the server name; `any.node`
stands for a node not known yet.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Sequence

from cached.errors import CachedError
from cached.peers.records import Peer

SUFFIX = ".node"
ANY = f"any{SUFFIX}"


def host_of(node_id: str) -> str:
    """Return the host name under which a node is dialled."""
    return f"{node_id}{SUFFIX}"


class _Member:
    """One side of a TLS connection; knows the peer once the handshake is done."""

    peer: Peer

    def _admit(self, made: ssl.SSLObject | ssl.SSLSocket) -> None:
        """Refuse anybody but a member, or another member than the one dialled."""
        context = made.context
        assert isinstance(context, PeerContext)
        try:
            peer = context.check(made.getpeercert(binary_form=True) or b"")
        except CachedError as error:
            raise ssl.SSLCertVerificationError(1, error.message) from None
        wanted = made.server_hostname
        if not made.server_side and wanted != ANY and wanted != host_of(peer.node_id):
            raise ssl.SSLCertVerificationError(1, f"node {peer.node_id[:8]} answered instead of {wanted}")
        self.peer = peer


class PeerObject(ssl.SSLObject, _Member):
    """A connection of the event loop."""

    def do_handshake(self) -> None:
        """Finish the handshake, then look who it is."""
        super().do_handshake()
        self._admit(self)


class PeerSocket(ssl.SSLSocket, _Member):
    """A connection of its own, which threads may use."""

    def do_handshake(self, block: bool = False) -> None:
        """Finish the handshake, then look who it is."""
        super().do_handshake(block)
        self._admit(self)


class PeerContext(ssl.SSLContext):
    """A context whose connections prove membership by `check`, which raises `CachedError` for strangers."""

    check: Callable[[bytes], Peer]
    sslobject_class = PeerObject
    sslsocket_class = PeerSocket


def context(
    protocol: int, anchors: Sequence[str], chain: bytes, *, check: Callable[[bytes], Peer]
) -> PeerContext:
    """Make a mutual TLS 1.3 context from PEM trust anchors and the PEM chain of certificate and key."""
    made = PeerContext(protocol)
    made.check = check
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(cadata="".join(anchors))
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        made.num_tickets = 0
    # OpenSSL reads certificates from paths only: an anonymous file keeps the key off the disk.
    handle = os.memfd_create("cached-identity", os.MFD_CLOEXEC)
    try:
        os.write(handle, chain)
        made.load_cert_chain(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)
    return made


def peer_of(ssl_object: object) -> Peer:
    """Return who is at the other end of an established connection."""
    assert isinstance(ssl_object, _Member)
    return ssl_object.peer
