"""The secret that all members of a cluster share: in each key file, shown to nobody."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from cached.errors import BadConfig
from cached.peers.authority import admit, describe, init_cluster, revoke
from cached.peers.identity import Identity
from cached.peers.keyfile import encode_key_file, read_key_file, write_private


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.key"
    init_cluster(path)
    return path


def with_secret(path: Path, secret: str) -> Path:
    write_private(path, encode_key_file(msgspec.structs.replace(read_key_file(path), secret=secret)))
    return path


def test_all_members_share_one_secret_and_other_clusters_have_another(tmp_path, key_file):
    lab = Identity.open(tmp_path / "lab", key_file=key_file)
    path = tmp_path / "node.key"
    write_private(path, admit(key_file).text)
    node = Identity.open(tmp_path / "node", key_file=path)
    alone = Identity.open(tmp_path / "alone", key_file=None)
    assert lab.cluster_secret == node.cluster_secret
    assert lab.cluster_secret is not None
    assert len(lab.cluster_secret) == 32
    assert alone.cluster_secret not in (None, lab.cluster_secret)


def test_a_revocation_leaves_the_secret_as_it_is(key_file):
    before = read_key_file(key_file).secret
    revoke(key_file, ["ab" * 20])
    assert read_key_file(key_file).secret == before


def test_a_key_file_made_before_there_were_secrets_is_read(tmp_path, key_file):
    old = with_secret(key_file, "")
    assert b'"secret"' not in old.read_bytes()
    assert Identity.open(tmp_path / "1", key_file=old).cluster_secret is None
    assert b'"secret"' not in admit(old).text


@pytest.mark.parametrize("wrong", ["ab", "zz" * 32, "AB" * 32, "ab" * 33])
def test_a_secret_of_another_form_is_refused_and_not_shown(key_file, wrong):
    with pytest.raises(BadConfig, match="hex digits") as caught:
        read_key_file(with_secret(key_file, wrong))
    assert wrong not in caught.value.message + caught.value.hint
    assert "openssl rand" in caught.value.hint


def test_the_secret_is_shown_to_nobody(key_file):
    content = read_key_file(key_file)
    assert content.secret not in repr(content)
    assert content.secret not in str(describe(key_file))
