"""Whoever has no certificate of the cluster gets nothing on either port, and the node stays well."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cached.replication import layout
from cached.sets import manifest as manifests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.cluster.kit import noise
from tests.daemons.node import Node

pytestmark = pytest.mark.daemon

SECRET = "a-name-that-nobody-may-hear"
CALLS = ("peers.swap", "offer.request", "source.join", "set.learn", "drive.refusals", "swarm.join")
GARBAGE = (
    b"",
    b"\n" * 3000,
    b"GET /v1/sets HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x13BitTorrent protocol" + bytes(8) + bytes(40),
    b"\x16\x03\x01\xff\xff" + noise(4000),
    noise(100_000),
)


def ports(node: Node) -> list[tuple[str, int]]:
    """Return both addresses of a node."""
    host, _, port = node.address.rpartition(":")
    return [(host, int(port)), (host, node.status()["bittorrent_port"])]


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A certificate, with its key, of an authority of its own, that claims to be a node."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")])
    now = dt.datetime.now(dt.UTC)
    claims = [x509.UniformResourceIdentifier("cached:node:" + "0" * 40), x509.DNSName("*")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(claims), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "foreign.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return path


def trusting(certificate: Path | None) -> ssl.SSLContext:
    """Return a TLS client that believes everybody, and shows a certificate or none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(certificate)
    return context


def everything(stream: socket.socket) -> bytes:
    """Read until the other side closes or has been silent for a second."""
    stream.settimeout(1.0)
    found = b""
    with contextlib.suppress(OSError):
        while data := stream.recv(65536):
            found += data
    return found


@contextlib.contextmanager
def told(address: tuple[str, int], context: ssl.SSLContext, name: str, data: bytes) -> Iterator[bytes]:
    """Give the application data that a TLS client hears: nothing when it is refused."""
    try:
        with (
            socket.create_connection(address, 60) as plain,
            context.wrap_socket(plain, server_hostname=name) as stream,
        ):
            stream.sendall(data)
            yield everything(stream)
    except (ssl.SSLError, ConnectionError):
        yield b""


def info_hashes(node: Node, content: str) -> list[str]:
    """Return what the torrent may be called, whatever its piece size: even who knows that gets nothing."""
    home = node.disk / "contents" / content
    manifest, leaves = manifests.decode((home / "manifest").read_bytes()), (home / "leaves").read_bytes()
    sizes = [16384 << power for power in range(8)]
    return [layout.build(content, manifest, leaves, size, None).info_hash for size in sizes]


@pytest.fixture
def node(cluster) -> Node:
    a, b = cluster.start("a"), cluster.start("b")
    cluster.together()
    big = ("--methods", "bittorrent", "--replicas", "all", "--share", "public", "--wait")
    a.cli("create", SECRET, cluster.tree("s", {SECRET: noise(2_000_000)}), *big)
    assert b.cli("verify", SECRET).json()["ok"]
    return a


def is_well(node: Node) -> None:
    """Assert that a node works, with its peer too."""
    assert node.running
    node.cluster.wait_for(lambda: all(item["alive"] for item in node.nodes()), what="its peer to be there")
    assert node.cli("verify", SECRET).json()["ok"]


def test_without_a_certificate_of_the_cluster_nobody_hears_anything_over_tls(node, foreign):
    control, swarm = ports(node)
    view = node.show(SECRET)
    body = json.dumps({"set": view["id"], "content": view["content"], "ad": {}, "rows": []}).encode()
    for card in (None, foreign):
        for call in CALLS:
            head = f"POST /v1/call/{call} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            with told(control, trusting(card), "x", head + body) as heard:
                assert heard == b"", (card, call)
        for info_hash in info_hashes(node, view["content"]):
            hello = (
                b"\x13BitTorrent protocol"
                + bytes(8)
                + bytes.fromhex(info_hash)[:20]
                + b"-XX0100-"
                + bytes(12)
            )
            with told(swarm, trusting(card), info_hash[:40], hello) as heard:
                assert heard == b"", (card, info_hash)
    is_well(node)


def test_garbage_on_either_port_gets_no_name_and_does_no_harm(node):
    view = node.show(SECRET)
    names = [
        SECRET.encode(),
        view["id"].encode(),
        view["content"].encode(),
        bytes.fromhex(view["content"]),
        b"root",
    ]
    for address in ports(node):
        for data in GARBAGE:
            with socket.create_connection(address, 60) as stream:
                with contextlib.suppress(ConnectionError):
                    stream.sendall(data)
                heard = everything(stream)
            assert not any(name in heard for name in names), (address, data[:40], heard)
            assert not heard.startswith((b"HTTP/1.1 2", b"\x13BitTorrent")), (address, data[:40], heard)
    is_well(node)


def test_many_silent_connections_keep_no_peer_out(node, cluster):
    address = ports(node)[0]
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(socket.create_connection(address, 60))
        c = cluster.start("c")
        cluster.together()
        cluster.wait_for(
            lambda: c.show(SECRET)["replicas"][0]["state"] == "COMMITTED", what="c to get its copy"
        )
    is_well(node)
