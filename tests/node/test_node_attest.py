"""Who dumped an object: signed by one node, believed by the others, and by nobody when anything is amiss."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from cached.addresses import Address
from cached.errors import Forbidden
from cached.node.attest import Claim, Signed, attest, check
from cached.node.counters import Counters
from cached.peers.authority import admit, init_cluster, revoke
from cached.peers.identity import Identity
from cached.peers.keyfile import write_private
from tests.node.fakes import caller

SHA = hashlib.sha256(b"pickled").hexdigest()
WHERE = Address("bucket", "dir/model")


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.key"
    init_cluster(path)
    return path


def node(key_file: Path, name: str, *domains: str) -> Any:
    path = key_file
    if domains:
        path = key_file.with_name(f"{name}.key")
        write_private(path, admit(key_file, domains=domains).text)
    identity = Identity.open(key_file.parent / name, key_file=path)
    return SimpleNamespace(identity=identity, counters=Counters())


def test_what_one_node_attests_every_node_of_the_cluster_believes(key_file):
    statement = attest(node(key_file, "one"), caller("ada"), SHA, WHERE)
    assert check(node(key_file, "two"), statement, SHA, WHERE) == "ada"
    assert check(node(key_file, "two"), statement, SHA, WHERE.pinned(7)) == "ada"


def test_a_statement_fits_into_the_metadata_that_cloud_storage_keeps(key_file):
    far = Address("b" * 63, "é" * 512)
    statement = attest(node(key_file, "one", "physics.example"), caller("ada@physics.example"), SHA, far)
    assert statement.isascii()
    assert statement.isprintable()
    assert len(statement) < 7000


@pytest.mark.parametrize(
    ("sha", "where", "why"),
    [
        (hashlib.sha256(b"altered").hexdigest(), WHERE, "not what ada dumped"),
        (SHA, Address("bucket", "dir/other"), "moved here"),
        (SHA, Address("bucket-2", "dir/model"), "moved here"),
    ],
)
def test_altered_bytes_and_a_moved_object_are_refused_with_who_dumped_it(key_file, sha, where, why):
    one = node(key_file, "one")
    statement = attest(one, caller("ada"), SHA, WHERE)
    with pytest.raises(Forbidden, match=why) as refused:
        check(one, statement, sha, where)
    assert "trust=" in refused.value.hint
    assert refused.value.details["user"] == "ada"
    assert one.counters.snapshot()["attest.refused"] == 1


@pytest.mark.parametrize("statement", ["", "{}", "[" * 5000, "x" * 9000, "\ud800", '{"payload":"!"}'])
def test_no_statement_and_one_that_cannot_be_read_are_refused(key_file, statement):
    with pytest.raises(Forbidden):
        check(node(key_file, "one"), statement, SHA, WHERE)


def test_a_claim_changed_after_it_was_signed_is_refused(key_file):
    one = node(key_file, "one")
    signed = msgspec.json.decode(attest(one, caller("mallory"), SHA, WHERE), type=Signed)
    claim = msgspec.json.decode(signed.payload, type=Claim)
    forged = msgspec.structs.replace(
        signed, payload=msgspec.json.encode(msgspec.structs.replace(claim, user="ada"))
    )
    with pytest.raises(Forbidden, match="does not hold"):
        check(one, msgspec.json.encode(forged).decode(), SHA, WHERE)


def test_a_signature_made_for_something_else_is_no_statement(key_file):
    one = node(key_file, "one")
    payload = msgspec.json.encode(Claim(user="ada", sha256=SHA, bucket=WHERE.bucket, name=WHERE.name))
    record = one.identity.sign_node(payload)
    lent = Signed(payload=payload, certificate=record.certificate, signature=record.signature)
    with pytest.raises(Forbidden, match="does not hold"):
        check(one, msgspec.json.encode(lent).decode(), SHA, WHERE)


def test_a_node_of_another_cluster_is_not_believed(key_file, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    other = tmp_path / "elsewhere" / "cluster.key"
    init_cluster(other)
    statement = attest(node(other, "stranger"), caller("ada"), SHA, WHERE)
    with pytest.raises(Forbidden, match="not issued by this cluster"):
        check(node(key_file, "one"), statement, SHA, WHERE)


def test_a_node_speaks_for_users_of_its_domains_only(key_file):
    glidein = node(key_file, "glidein", "physics.example")
    home = node(key_file, "home")
    ours = attest(glidein, caller("ada@physics.example"), SHA, WHERE)
    assert check(home, ours, SHA, WHERE) == "ada@physics.example"
    with pytest.raises(Forbidden, match="may not speak for ada"):
        check(home, attest(glidein, caller("ada"), SHA, WHERE), SHA, WHERE)


def test_a_revoked_node_is_not_believed_any_more(key_file):
    lost, home = node(key_file, "lost", ""), node(key_file, "home")
    statement = attest(lost, caller("ada"), SHA, WHERE)
    assert check(home, statement, SHA, WHERE) == "ada"
    revoke(key_file, [lost.identity.node_id])
    later = node(key_file, "later")
    with pytest.raises(Forbidden, match="revoked"):
        check(later, statement, SHA, WHERE)
