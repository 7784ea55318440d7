"""Signatures and certificates: who signed, and may they speak for whom.

Each kind of signed value has its own context, put before the bytes that are signed, so that a signature made
for one kind never passes for another. Keys are EC P-256. Certificates name the node as URIs:
`cached:node:ID` and one `cached:domain:D` for each user domain; the DNS name `*` is what BitTorrent over TLS
asks for.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

from cached.errors import IntegrityFailed
from cached.peers.records import Peer

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

SET_RECORD = b"cached set record 1\0"
NODE_RECORD = b"cached node record 1\0"
BEAT = b"cached beat 1\0"
REVOCATIONS = b"cached revocations 1\0"
DUMP = b"cached dump 1\0"

NODE_URI = "cached:node:"
DOMAIN_URI = "cached:domain:"


def sign(key: EllipticCurvePrivateKey, context: bytes, payload: bytes) -> bytes:
    """Return the signature of `payload` in `context`."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return key.sign(context + payload, ec.ECDSA(hashes.SHA256()))


def check(certificate: bytes, context: bytes, payload: bytes, signature: bytes) -> None:
    """Raise `IntegrityFailed` unless the key of the DER certificate signed `payload` in `context`."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        public_key(certificate).verify(signature, context + payload, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise IntegrityFailed("a signature does not fit what it signs") from None


def node_id(spki: bytes) -> str:
    """Return the node id of a public key, given as DER SubjectPublicKeyInfo: 40 hex digits."""
    return hashlib.sha256(spki).hexdigest()[:40]


@lru_cache(maxsize=4096)
def load(certificate: bytes) -> x509.Certificate:
    """Parse a DER certificate; raises `IntegrityFailed` when it is none."""
    from cryptography import x509

    try:
        return x509.load_der_x509_certificate(certificate)
    except ValueError:
        raise IntegrityFailed("not a certificate") from None


@lru_cache(maxsize=4096)
def public_key(certificate: bytes) -> EllipticCurvePublicKey:
    """Return the certificate's public key; raises `IntegrityFailed` unless it is EC P-256."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = load(certificate).public_key()
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IntegrityFailed("a certificate's key is not EC P-256")
    return key


@lru_cache(maxsize=4096)
def named_peer(certificate: bytes) -> Peer:
    """Return the node and the domains that a DER certificate names; says nothing about who issued it.

    Raises:
        IntegrityFailed: it names no node, or a node id that is not that of its key.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    found = load(certificate)
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        raise IntegrityFailed("a certificate names no node") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    spki = public_key(certificate).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if f"{NODE_URI}{node_id(spki)}" not in uris:
        raise IntegrityFailed("a certificate does not name the node of its key")
    domains = frozenset(uri.removeprefix(DOMAIN_URI) for uri in uris if uri.startswith(DOMAIN_URI))
    return Peer(node_id=node_id(spki), domains=domains)


@lru_cache(maxsize=4096)
def issued_by(certificate: bytes, anchors: tuple[bytes, ...]) -> bool:
    """Tell whether one of the anchors (DER) issued the certificate directly and it is no authority itself."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    found = load(certificate)
    try:
        if found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
    except (x509.ExtensionNotFound, ValueError):
        return False
    for anchor in anchors:
        try:
            found.verify_directly_issued_by(load(anchor))
        except (ValueError, TypeError, InvalidSignature):
            continue
        return True
    return False


def pem_to_der(certificate: str) -> bytes:
    """Return the DER form of a PEM certificate."""
    import ssl

    return ssl.PEM_cert_to_DER_cert(certificate.strip() + "\n")


def load_key(pem: bytes) -> EllipticCurvePrivateKey:
    """Parse a PEM private key; raises `IntegrityFailed` unless it is EC P-256."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        raise IntegrityFailed("not a private key") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IntegrityFailed("a private key is not EC P-256")
    return key
