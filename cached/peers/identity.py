"""Who this node is, whom it believes, and what it signs.

Opened once at start from the key file, or without one from an authority of the node's own, made on first
use. The node's key stays in `state_dir/identity` (0700), except when the key file brings it. Everything that
a peer claims is judged here: certificates by their issuer and the revocations, records by signature, issuer,
revocations and the signer's domains. A certificate's end date is enforced on connections, not on records: a
set outlives the certificate that signed it.
"""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cached.errors import BadConfig, CachedError, Forbidden, IntegrityFailed, UsageError
from cached.peers import authority, signing, tls
from cached.peers.dhparams import FFDHE2048
from cached.peers.keyfile import (
    KeyFile,
    check_not_writable_by_others,
    private_directory,
    read_key_file,
    read_private,
    write_private,
)
from cached.peers.records import Beat, Peer, SignedNode, SignedRevocations
from cached.sets import bounds
from cached.sets.set import SetRecord, SignedRecord

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey


class TorrentMaterial(msgspec.Struct, frozen=True, kw_only=True):
    """What BitTorrent over TLS needs, all PEM; both ends must be issued by `root_certificate`."""

    root_certificate: bytes
    certificate: bytes
    private_key: bytes
    dh_params: bytes

    def __repr__(self) -> str:
        return "TorrentMaterial(...)"


class Identity:
    """This node's key and certificate, and the cluster's trust anchors and revocations."""

    def __init__(
        self,
        folder: Path,
        key_file: Path,
        content: KeyFile,
        key: EllipticCurvePrivateKey,
        certificate: str,
    ) -> None:
        self._folder = folder
        self._key_file = key_file
        self._key_file_mtime = key_file.stat().st_mtime_ns
        self._key = key
        self._anchors_pem = content.anchors
        self._anchors = tuple(signing.pem_to_der(pem) for pem in content.anchors)
        self._certificate_pem = certificate
        self.certificate = signing.pem_to_der(certificate)
        own = signing.named_peer(self.certificate)
        self.node_id = own.node_id
        self.domains = own.domains
        self.cluster_id = content.cluster
        #: What only members know, 32 bytes; None when the key file is older than such secrets.
        self.cluster_secret = bytes.fromhex(content.secret) if content.secret else None
        #: The newest revocations known, to be passed on; None when nobody was ever revoked.
        self.revocations: SignedRevocations | None = None
        self._number = 0
        self._revoked: frozenset[str] = frozenset()

    @classmethod
    def open(cls, state_dir: Path, *, key_file: Path | None, user_domain: str = "") -> Identity:
        """Take up the identity in `state_dir`, made on first use.

        Raises:
            BadConfig: a file or directory with secrets is open to others, the key file does not fit, or this
            node
                is revoked.
        """
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_not_writable_by_others(state_dir)
        folder = private_directory(state_dir / "identity")
        if key_file is None:
            key_file = folder / "cluster.key"
            if not key_file.exists():
                with contextlib.suppress(UsageError):  # somebody else made it at the same moment
                    authority.init_cluster(key_file)
        content = read_key_file(key_file)
        try:
            key, certificate = _credentials(folder, content, user_domain)
            made = cls(folder, key_file, content, key, certificate)
            if authority.id_of(key) != made.node_id or not signing.issued_by(made.certificate, made._anchors):
                raise IntegrityFailed("the node's key, certificate and trust anchors do not belong together")
            made._load_revocations(content)
        except IntegrityFailed as error:
            raise BadConfig(f"the key file {key_file} does not fit: {error.message}") from None
        if made.revoked(made.node_id):
            raise BadConfig(
                f"this node ({made.node_id}) is revoked",
                hint="ask for a new key file: `cached cluster admit`",
            )
        return made

    def server_context(self) -> ssl.SSLContext:
        """Return the context for accepting peers: TLS 1.3, a certificate of the cluster required."""
        return self._context(ssl.PROTOCOL_TLS_SERVER)

    def client_context(self) -> ssl.SSLContext:
        """Return the context for dialling peers; the server name says which node id is expected
        (`tls.host_of`).
        """
        return self._context(ssl.PROTOCOL_TLS_CLIENT)

    def torrent_material(self) -> TorrentMaterial:
        """Return what libtorrent needs for this cluster; its root is the one anchor that issued our
        certificate.
        """
        issuer = next(
            pem
            for pem, der in zip(self._anchors_pem, self._anchors, strict=True)
            if signing.issued_by(self.certificate, (der,))
        )
        return TorrentMaterial(
            root_certificate=issuer.encode(),
            certificate=self._certificate_pem.encode(),
            private_key=authority.key_pem(self._key),
            dh_params=FFDHE2048,
        )

    def sign(self, payload: bytes) -> SignedRecord:
        """Sign the JSON of a `SetRecord`."""
        return SignedRecord(
            payload=payload,
            certificate=self.certificate,
            signature=signing.sign(self._key, signing.SET_RECORD, payload),
        )

    def verify(self, signed: SignedRecord) -> Peer:
        """Return who signed a set record.

        Raises:
            IntegrityFailed: not a record, or the signature does not fit.
            Forbidden: the signer is not a member, is revoked, or may not speak for the owner's domain.
        """
        signer = self.check_certificate(signed.certificate)
        signing.check(signed.certificate, signing.SET_RECORD, signed.payload, signed.signature)
        owner = _readable(signed).owner
        domain = owner.partition("@")[2]
        if domain not in signer.domains:
            raise Forbidden(
                f"node {signer.node_id[:8]} may not speak for {owner}", node=signer.node_id, domain=domain
            )
        return signer

    def sign_node(self, payload: bytes) -> SignedNode:
        """Sign the JSON of this node's `NodeRecord`."""
        signature = signing.sign(self._key, signing.NODE_RECORD, payload)
        return SignedNode(payload=payload, certificate=self.certificate, signature=signature)

    def verify_node(self, signed: SignedNode) -> Peer:
        """Return who signed a node record; raises as `verify` does."""
        signer = self.check_certificate(signed.certificate)
        signing.check(signed.certificate, signing.NODE_RECORD, signed.payload, signed.signature)
        return signer

    def sign_beat(self, beat: Beat) -> Beat:
        """Return the beat with this node's signature."""
        return msgspec.structs.replace(beat, signature=signing.sign(self._key, signing.BEAT, beat.payload()))

    def verify_beat(self, beat: Beat, certificate: bytes) -> None:
        """Raise `IntegrityFailed` unless the key of `certificate` signed the beat."""
        signing.check(certificate, signing.BEAT, beat.payload(), beat.signature)

    def sign_dump(self, payload: bytes) -> bytes:
        """Return this node's signature of a statement about who dumped an object."""
        return signing.sign(self._key, signing.DUMP, payload)

    def verify_dump(self, certificate: bytes, payload: bytes, signature: bytes) -> Peer:
        """Return who signed a statement about a dump.

        Raises `IntegrityFailed` (the signature does not fit), `Forbidden` (no member, or revoked).
        """
        signer = self.check_certificate(certificate)
        signing.check(certificate, signing.DUMP, payload, signature)
        return signer

    def check_certificate(self, certificate: bytes) -> Peer:
        """Return the member whose certificate (DER) this is; raises `Forbidden` for strangers and revoked
        nodes.
        """
        if not signing.issued_by(certificate, self._anchors):
            raise Forbidden("the certificate was not issued by this cluster's authority")
        peer = signing.named_peer(certificate)
        if peer.node_id in self._revoked:
            raise Forbidden(f"node {peer.node_id[:8]} is revoked", node=peer.node_id)
        return peer

    def revoked(self, node_id: str) -> bool:
        """Tell whether the authority has revoked the node."""
        return node_id in self._revoked

    @property
    def revocation_number(self) -> int:
        """The number of the newest revocations known; 0 for none."""
        return self._number

    def accept(self, signed: SignedRevocations) -> bool:
        """Take up revocations heard from a peer or the key file; return whether they were news.

        Raises:
            IntegrityFailed: the cluster's authority did not sign them.
        """
        found = authority.check_revocations(signed, self.cluster_id, self._anchors)
        if found.number <= self._number:
            return False
        write_private(self._folder / "revocations.json", msgspec.json.encode(signed))
        self._number, self._revoked, self.revocations = found.number, frozenset(found.nodes), signed
        return True

    def refresh(self) -> bool:
        """Read the revocations again if the key file changed; return whether there was news. Never raises."""
        try:
            mtime = self._key_file.stat().st_mtime_ns
            if mtime == self._key_file_mtime:
                return False
            self._key_file_mtime = mtime
            news = read_key_file(self._key_file).revocations
            return news is not None and self.accept(news)
        except (OSError, CachedError):
            return False

    def next_incarnation(self, at_least: int = 1) -> int:
        """Return a number higher than any returned before, and not below `at_least`; it is durable on
        return.
        """
        path = self._folder / "incarnation"
        try:
            last = int(read_private(path))
        except (FileNotFoundError, ValueError):
            last = 0
        chosen = max(last + 1, at_least)
        write_private(path, b"%d\n" % chosen)
        return chosen

    def _context(self, protocol: int) -> ssl.SSLContext:
        key = authority.key_pem(self._key)
        return tls.context(
            protocol, self._anchors_pem, self._certificate_pem.encode() + key, check=self.check_certificate
        )

    def _load_revocations(self, content: KeyFile) -> None:
        if content.revocations is not None:
            self.accept(content.revocations)
        try:
            kept = msgspec.json.decode(
                read_private(self._folder / "revocations.json"), type=SignedRevocations
            )
            if kept.authority in self._anchors:
                self._number_kept(kept)
        except FileNotFoundError:
            pass
        except msgspec.MsgspecError as error:
            raise BadConfig(f"{self._folder / 'revocations.json'} cannot be read: {error}") from None

    def _number_kept(self, kept: SignedRevocations) -> None:
        found = authority.check_revocations(kept, self.cluster_id, self._anchors)
        if found.number > self._number:
            self._number, self._revoked, self.revocations = found.number, frozenset(found.nodes), kept


def _readable(signed: SignedRecord) -> SetRecord:
    """Return the record that was signed, all of its values within their bounds."""
    if len(signed.payload) > bounds.MAX_PAYLOAD:
        raise IntegrityFailed(f"a set record of {len(signed.payload)} bytes is too large")
    try:
        record = signed.record()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityFailed(f"a set record cannot be read: {error}") from None
    bounds.check_record(record)
    return record


def _credentials(folder: Path, content: KeyFile, user_domain: str) -> tuple[EllipticCurvePrivateKey, str]:
    if content.node is not None:
        return signing.load_key(content.node.key.encode()), content.node.certificate
    path = folder / "node.key"
    with contextlib.suppress(FileExistsError):
        if not path.exists():
            write_private(path, authority.key_pem(authority.new_key()), replace=False)
    key = signing.load_key(read_private(path))
    return key, authority.issue(content, key, (user_domain,))
