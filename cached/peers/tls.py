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


class PeerObject(ssl.SSLObject):
    """One side of a TLS connection; knows the peer once the handshake is done."""

    peer: Peer

    def do_handshake(self) -> None:
        """Finish the handshake, then refuse anybody but a member, or another member than the one dialled."""
        super().do_handshake()
        certificate = self.getpeercert(binary_form=True)
        context = self.context
        assert isinstance(context, PeerContext)
        try:
            peer = context.check(certificate or b"")
        except CachedError as error:
            raise ssl.SSLCertVerificationError(1, error.message) from None
        wanted = self.server_hostname
        if not self.server_side and wanted != ANY and wanted != host_of(peer.node_id):
            raise ssl.SSLCertVerificationError(1, f"node {peer.node_id[:8]} answered instead of {wanted}")
        self.peer = peer


class PeerContext(ssl.SSLContext):
    """A context whose connections prove membership by `check`, which raises `CachedError` for strangers."""

    check: Callable[[bytes], Peer]
    sslobject_class = PeerObject


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
    assert isinstance(ssl_object, PeerObject)
    return ssl_object.peer
