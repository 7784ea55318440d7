from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from cached.errors import BadConfig, Forbidden, IntegrityFailed, UsageError
from cached.peers import signing
from cached.peers.authority import admit, describe, init_cluster, revoke
from cached.peers.identity import Identity
from cached.peers.keyfile import read_key_file, write_private
from cached.peers.records import Beat
from cached.sets.set import SetRecord, SignedRecord, set_id


def payload(owner: str = "ada", **values: object) -> bytes:
    record = SetRecord(
        id="",
        nonce="ab" * 16,
        name="nr",
        owner=owner,
        content="cd" * 32,
        bytes=1,
        files=1,
        originator="x",
        lease_seconds=60,
    )
    record = msgspec.structs.replace(record, **values)
    if "id" not in values:
        record = msgspec.structs.replace(record, id=set_id(record.owner, record.content, record.nonce))
    return msgspec.json.encode(record)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.key"
    init_cluster(path)
    return path


def admitted(key_file: Path, name: str, *domains: str) -> Path:
    path = key_file.with_name(f"{name}.key")
    write_private(path, admit(key_file, domains=domains or ("",)).text)
    return path


def test_a_node_without_a_key_file_makes_a_cluster_of_its_own_and_keeps_it(tmp_path):
    first = Identity.open(tmp_path / "state", key_file=None)
    again = Identity.open(tmp_path / "state", key_file=None)
    assert (first.node_id, first.cluster_id) == (again.node_id, again.cluster_id)
    assert len(first.node_id) == 40
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "state").rglob("*"))


def test_nodes_of_one_laboratory_file_differ_and_believe_each_other(tmp_path, key_file):
    one = Identity.open(tmp_path / "1", key_file=key_file)
    two = Identity.open(tmp_path / "2", key_file=key_file)
    assert one.node_id != two.node_id
    assert two.verify(one.sign(payload())).node_id == one.node_id


def test_an_admitted_node_has_no_authority_and_speaks_for_its_domains_only(tmp_path, key_file):
    lab = Identity.open(tmp_path / "1", key_file=key_file)
    path = admitted(key_file, "node", "physics.example", "")
    node = Identity.open(tmp_path / "2", key_file=path)
    assert node.domains == {"physics.example", ""}
    assert lab.verify(node.sign(payload("ada@physics.example"))).node_id == node.node_id
    assert lab.verify(node.sign(payload("ada")))
    with pytest.raises(Forbidden, match="may not speak for ada@chemistry"):
        lab.verify(node.sign(payload("ada@chemistry")))
    with pytest.raises(BadConfig, match="not the authority"):
        admit(path)
    assert b"authority" not in path.read_bytes()


def test_a_record_of_another_cluster_is_not_believed(tmp_path, key_file):
    lab = Identity.open(tmp_path / "1", key_file=key_file)
    stranger = Identity.open(tmp_path / "2", key_file=None)
    with pytest.raises(Forbidden, match="not issued"):
        lab.verify(stranger.sign(payload()))


@pytest.mark.parametrize(
    "values",
    [
        {"id": "../../../../../../tmp/written-by-a-peer"},
        {"id": ""},
        {"id": set_id("bob", "cd" * 32, "ab" * 16)},
        {"id": set_id("ada", "ce" * 32, "ab" * 16)},
        {"nonce": "AB" * 16},
        {"nonce": ""},
        {"content": "../" * 20},
        {"name": "a/b"},
        {"owner": "a:b"},
        {"share": "everybody"},
        {"bytes": -1},
        {"bytes": 2**63},
        {"files": -(10**15)},
        {"files": 10**400},
        {"revision": 2**63},
        {"revision": 0},
        {"replicas": -2},
        {"lease_seconds": 10**30},
        {"min_lease_seconds": -(10**30)},
        {"scope": "x" * 100_000},
    ],
    ids="-".join,
)
def test_a_record_with_values_that_cannot_be_is_not_believed_whoever_signed_it(tmp_path, key_file, values):
    member = Identity.open(tmp_path / "1", key_file=key_file)
    with pytest.raises(IntegrityFailed):
        member.verify(member.sign(payload(**values)))


def test_a_record_nested_without_end_is_not_believed(tmp_path, key_file):
    member = Identity.open(tmp_path / "1", key_file=key_file)
    deep = payload()[:-1] + b',"more":' + b"[" * 30_000
    with pytest.raises(IntegrityFailed, match="cannot be read"):
        member.verify(member.sign(deep))


def test_a_changed_record_and_a_signature_for_another_kind_are_found_out(tmp_path, key_file):
    lab = Identity.open(tmp_path / "1", key_file=key_file)
    signed = lab.sign(payload())
    with pytest.raises(IntegrityFailed):
        lab.verify(msgspec.structs.replace(signed, payload=payload("eve")))
    node = lab.sign_node(payload())
    with pytest.raises(IntegrityFailed):
        lab.verify(SignedRecord(payload=node.payload, certificate=node.certificate, signature=node.signature))
    with pytest.raises(IntegrityFailed):
        lab.verify(msgspec.structs.replace(signed, certificate=b"junk"))


def test_the_authority_itself_and_certificates_of_nodes_issue_nothing(tmp_path, key_file):
    lab = Identity.open(tmp_path / "1", key_file=key_file)
    content = read_key_file(key_file)
    anchor = signing.pem_to_der(content.anchors[0])
    assert not signing.issued_by(anchor, (anchor,))
    assert not signing.issued_by(lab.certificate, (lab.certificate,))


def test_a_beat_is_signed_by_its_node(tmp_path, key_file):
    lab = Identity.open(tmp_path / "1", key_file=key_file)
    beat = lab.sign_beat(Beat(node_id=lab.node_id, incarnation=1, beat=2, left=False, signature=b""))
    lab.verify_beat(beat, lab.certificate)
    with pytest.raises(IntegrityFailed):
        lab.verify_beat(msgspec.structs.replace(beat, left=True), lab.certificate)


def test_revocation_reaches_a_running_node_and_survives_its_restart(tmp_path, key_file):
    lab = Identity.open(tmp_path / "1", key_file=key_file)
    node = Identity.open(tmp_path / "2", key_file=admitted(key_file, "node"))
    other = Identity.open(tmp_path / "3", key_file=admitted(key_file, "other"))
    signed = node.sign(payload())
    assert lab.verify(signed)
    assert revoke(key_file, [node.node_id]) == 1
    assert lab.refresh()
    assert not lab.refresh()
    with pytest.raises(Forbidden, match="revoked"):
        lab.verify(signed)
    assert lab.revocations is not None
    assert other.accept(lab.revocations)
    assert not other.accept(lab.revocations)
    again = Identity.open(tmp_path / "3", key_file=key_file.with_name("other.key"))
    with pytest.raises(Forbidden, match="revoked"):
        again.verify(signed)
    assert node.accept(lab.revocations)
    with pytest.raises(BadConfig, match="revoked"):
        Identity.open(tmp_path / "2", key_file=key_file.with_name("node.key"))


def test_revocations_of_another_authority_are_not_believed(tmp_path, key_file):
    lab = Identity.open(tmp_path / "1", key_file=key_file)
    foreign = tmp_path / "foreign.key"
    init_cluster(foreign)
    revoke(foreign, [lab.node_id])
    signed = read_key_file(foreign).revocations
    assert signed is not None
    with pytest.raises(IntegrityFailed, match="this cluster's authority"):
        lab.accept(signed)
    with pytest.raises(UsageError, match="node id"):
        revoke(key_file, ["short"])


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_file_that_others_can_read_is_refused(tmp_path, key_file, mode):
    key_file.chmod(mode)
    with pytest.raises(BadConfig, match="other users could") as caught:
        Identity.open(tmp_path / "1", key_file=key_file)
    assert "chmod 0600" in caught.value.hint


def test_a_state_directory_open_to_others_is_refused(tmp_path):
    state = tmp_path / "state"
    Identity.open(state, key_file=None)
    (state / "identity").chmod(0o750)
    with pytest.raises(BadConfig, match="0750"):
        Identity.open(state, key_file=None)
    (state / "identity").chmod(0o700)
    state.chmod(0o777)
    with pytest.raises(BadConfig, match="0777"):
        Identity.open(state, key_file=None)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a directory away")
def test_a_state_directory_of_another_user_is_refused(tmp_path):
    state = tmp_path / "state"
    Identity.open(state, key_file=None)
    os.chown(state / "identity", 12345, 12345)
    with pytest.raises(BadConfig, match="belongs to uid 12345"):
        Identity.open(state, key_file=None)


def test_a_missing_broken_or_newer_key_file_says_so(tmp_path, key_file):
    with pytest.raises(BadConfig, match="does not exist"):
        Identity.open(tmp_path / "1", key_file=tmp_path / "none.key")
    text = key_file.read_bytes()
    key_file.write_bytes(text.replace(b'"version": 1', b'"version": 9'))
    with pytest.raises(BadConfig, match="version 9"):
        Identity.open(tmp_path / "1", key_file=key_file)
    key_file.write_bytes(b"{")
    with pytest.raises(BadConfig, match="not a key file"):
        Identity.open(tmp_path / "1", key_file=key_file)


def test_a_second_init_leaves_the_key_file_alone(key_file):
    before = key_file.read_bytes()
    with pytest.raises(UsageError, match="exists"):
        init_cluster(key_file)
    assert key_file.read_bytes() == before
    assert [path.name for path in key_file.parent.iterdir()] == [key_file.name]


def test_what_is_shown_of_a_key_file_holds_no_secret(key_file):
    path = admitted(key_file, "node", "physics")
    assert describe(key_file)["kind"] == "authority"
    shown = describe(path)
    assert shown["domains"] == ["physics"]
    assert "PRIVATE" not in str(shown)
    assert "PRIVATE" not in repr(read_key_file(path))


def test_two_anchors_are_trusted_during_a_rotation(tmp_path, key_file):
    successor = tmp_path / "next.key"
    init_cluster(successor)
    old, new = read_key_file(key_file), read_key_file(successor)
    both = msgspec.structs.replace(new, cluster=old.cluster, anchors=(*new.anchors, *old.anchors))
    rotated = tmp_path / "rotated.key"
    write_private(rotated, msgspec.json.encode(both))
    before = Identity.open(tmp_path / "1", key_file=key_file)
    after = Identity.open(tmp_path / "1", key_file=rotated)
    assert after.node_id == before.node_id
    assert after.verify(before.sign(payload()))
    assert after.torrent_material().root_certificate.decode() == new.anchors[0]


def test_incarnations_grow_over_restarts(tmp_path):
    first = Identity.open(tmp_path / "state", key_file=None).next_incarnation()
    again = Identity.open(tmp_path / "state", key_file=None)
    assert again.next_incarnation() > first
    assert again.next_incarnation(at_least=100) == 100
