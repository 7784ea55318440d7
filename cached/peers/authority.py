"""The cluster's authority: it makes clusters, admits nodes and revokes them.

Whoever holds the authority's key decides who is a member. In a laboratory every node holds it and issues
itself a certificate at each start; otherwise it stays on one machine, and `admit` makes a key file for each
node. Certificates are never issued for a name that a node asks for: the node id is the hash of the key, the
domains are the admitting person's.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from cached.errors import BadConfig, IntegrityFailed, UsageError
from cached.peers import signing
from cached.peers.keyfile import (
    VERSION,
    KeyFile,
    Secret,
    encode_key_file,
    new_secret,
    read_key_file,
    write_key_file,
)
from cached.peers.records import Revocations, SignedRevocations

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

#: Lifetimes in days. Clocks of nodes differ, so certificates begin well before they are made.
AUTHORITY_DAYS = 3650
NODE_DAYS = 1825
BACKDATED_DAYS = 30

_DOMAIN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """A node that was admitted: its id, and the text of its key file, which holds its secret key."""

    node_id: str
    text: bytes

    def __repr__(self) -> str:
        return f"Admitted({self.node_id})"


def init_cluster(path: Path) -> str:
    """Make an authority and write its key file; return the cluster's id.

    Raises:
        UsageError: the file exists; it is left as it is.
    """
    key = new_key()
    cluster = secrets.token_hex(8)
    certificate = _authority_certificate(key, cluster)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_key_file(
            path,
            KeyFile(
                version=VERSION,
                cluster=cluster,
                anchors=(_pem(certificate),),
                authority=Secret(certificate=_pem(certificate), key=key_pem(key).decode()),
                secret=new_secret(),
            ),
        )
    except FileExistsError:
        raise UsageError(
            f"the key file {path} exists", hint="name another file, or remove it if nobody uses that cluster"
        ) from None
    except OSError as error:
        raise BadConfig(f"cannot write the key file {path}: {error.strerror}") from None
    return cluster


def admit(key_file: Path, *, domains: Sequence[str] = ("",), days: int = NODE_DAYS) -> Admitted:
    """Make a key and a certificate for one node, which may speak for users of `domains` ("" is the unnamed
    one).

    Raises:
        BadConfig: `key_file` does not hold the authority.
        UsageError: a domain is not a name.
    """
    content = read_key_file(key_file)
    key = new_key()
    certificate = issue(content, key, domains, days=days)
    admitted = KeyFile(
        version=VERSION,
        cluster=content.cluster,
        anchors=content.anchors,
        node=Secret(certificate=certificate, key=key_pem(key).decode()),
        revocations=content.revocations,
        secret=content.secret,
    )
    return Admitted(node_id=id_of(key), text=encode_key_file(admitted))


def revoke(key_file: Path, node_ids: Iterable[str]) -> int:
    """Add nodes to the signed revocations in the authority's key file; return how many are revoked in all.

    Running daemons that use the file take the list up within seconds and pass it on.
    """
    content = read_key_file(key_file)
    authority = _authority(content)
    wanted = set(node_ids)
    for one in wanted:
        if not re.fullmatch(r"[0-9a-f]{40}", one):
            raise UsageError(
                f"{one!r} is not a node id", hint="node ids have 40 hex digits; see `cached nodes`"
            )
    previous = revoked_nodes(content.revocations)
    payload = msgspec.json.encode(
        Revocations(
            cluster=content.cluster,
            number=previous.number + 1,
            nodes=tuple(sorted(wanted | set(previous.nodes))),
        )
    )
    signature = signing.sign(signing.load_key(authority.key.encode()), signing.REVOCATIONS, payload)
    signed = SignedRevocations(
        payload=payload, authority=signing.pem_to_der(authority.certificate), signature=signature
    )
    write_key_file(key_file, msgspec.structs.replace(content, revocations=signed), replace=True)
    return len(revoked_nodes(signed).nodes)


def revoked_nodes(signed: SignedRevocations | None) -> Revocations:
    """Return the list inside signed revocations, without checking the signature; empty for none."""
    if signed is None:
        return Revocations(cluster="", number=0)
    try:
        return msgspec.json.decode(signed.payload, type=Revocations)
    except msgspec.MsgspecError:
        raise IntegrityFailed("revocations cannot be read") from None


def check_revocations(signed: SignedRevocations, cluster: str, anchors: tuple[bytes, ...]) -> Revocations:
    """Return the list when one of the cluster's anchors signed it; raises `IntegrityFailed` otherwise."""
    if signed.authority not in anchors:
        raise IntegrityFailed("revocations are not signed by this cluster's authority")
    signing.check(signed.authority, signing.REVOCATIONS, signed.payload, signed.signature)
    found = revoked_nodes(signed)
    if found.cluster != cluster:
        raise IntegrityFailed("revocations are for another cluster")
    return found


def describe(key_file: Path) -> dict[str, Any]:
    """Return what may be shown of a key file: no secrets."""
    content = read_key_file(key_file)
    shown: dict[str, Any] = {
        "cluster": content.cluster,
        "key_file": str(key_file),
        "kind": "authority" if content.authority else "node",
        "anchors": [
            signing.load(signing.pem_to_der(pem)).serial_number.to_bytes(20).hex() for pem in content.anchors
        ],
        "revoked": list(revoked_nodes(content.revocations).nodes),
    }
    if content.node:
        peer = signing.named_peer(signing.pem_to_der(content.node.certificate))
        shown |= {"node": peer.node_id, "domains": sorted(peer.domains)}
    return shown


def issue(
    content: KeyFile, key: EllipticCurvePrivateKey, domains: Sequence[str], *, days: int = NODE_DAYS
) -> str:
    """Return a PEM certificate for `key`, issued by the authority in `content`."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    authority = _authority(content)
    for domain in domains:
        if domain and not _DOMAIN.fullmatch(domain):
            raise UsageError(
                f"{domain!r} is not a user domain", hint="domains look like host names: physics.example.org"
            )
    issuer = signing.load(signing.pem_to_der(authority.certificate))
    issuer_key = signing.public_key(signing.pem_to_der(authority.certificate))
    node = id_of(key)
    uris = [
        f"{signing.NODE_URI}{node}",
        *(f"{signing.DOMAIN_URI}{domain}" for domain in dict.fromkeys(domains)),
    ]
    names: list[x509.GeneralName] = [
        x509.DNSName("*"),
        *(x509.UniformResourceIdentifier(uri) for uri in uris),
    ]
    builder = (
        _builder(key, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)]), issuer.subject, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )
    return _pem(_sign(builder, signing.load_key(authority.key.encode())))


def new_key() -> EllipticCurvePrivateKey:
    """Make an EC P-256 key."""
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: EllipticCurvePrivateKey) -> bytes:
    """Return the key as unencrypted PKCS#8 PEM."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def id_of(key: EllipticCurvePrivateKey) -> str:
    """Return the node id of a key."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return signing.node_id(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _authority(content: KeyFile) -> Secret:
    if content.authority is None:
        raise BadConfig(
            "this key file holds one node's certificate, not the authority",
            hint="run this on the machine, and with the key file, where `cached cluster init` was run",
        )
    return content.authority


def _authority_certificate(key: EllipticCurvePrivateKey, cluster: str) -> x509.Certificate:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, f"cached cluster {cluster} {os.urandom(4).hex()}")]
    )
    builder = (
        _builder(key, name, name, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _sign(builder, key)


def _builder(
    key: EllipticCurvePrivateKey, subject: x509.Name, issuer: x509.Name, days: int
) -> x509.CertificateBuilder:
    from cryptography import x509

    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=BACKDATED_DAYS))
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _sign(builder: x509.CertificateBuilder, key: EllipticCurvePrivateKey) -> x509.Certificate:
    from cryptography.hazmat.primitives import hashes

    return builder.sign(key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM).decode()
