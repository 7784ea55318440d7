"""Links in a real working directory."""

from __future__ import annotations

import os

import pytest

from cached_cli.links import linked, network_filesystem


def test_a_link_is_there_for_a_while_and_gone_afterwards(tmp_path):
    target = tmp_path / "set"
    target.mkdir()
    said = []
    with linked(tmp_path, {"nr": str(target)}, said.append):
        assert os.readlink(tmp_path / "nr") == str(target)
    assert not os.path.lexists(tmp_path / "nr")
    assert said == []


@pytest.mark.parametrize(
    "target", ["/proc/999999999/fd/3", "/nowhere/at/all", "../gone", "/etc/passwd/in", "nr"]
)
def test_a_dead_link_is_replaced(tmp_path, target):
    (tmp_path / "nr").symlink_to(target)
    with linked(tmp_path, {"nr": str(tmp_path)}, print):
        assert os.readlink(tmp_path / "nr") == str(tmp_path)
    assert not os.path.lexists(tmp_path / "nr")


def test_a_foreign_file_directory_or_link_is_left_alone_and_said(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to("/sys")
    said = []
    with linked(tmp_path, dict.fromkeys(("file", "dir", "link"), "/proc"), said.append):
        assert (tmp_path / "file").read_text() == "mine"
    assert len(said) == 3
    assert all("NAME=LINK" in line for line in said)
    assert os.readlink(tmp_path / "link") == "/sys"


def test_a_link_that_somebody_else_put_there_meanwhile_is_not_removed(tmp_path):
    with linked(tmp_path, {"nr": "/proc"}, print):
        (tmp_path / "nr").unlink()
        (tmp_path / "nr").symlink_to("/sys")
    assert os.readlink(tmp_path / "nr") == "/sys"


def test_a_directory_that_cannot_be_written_is_said_and_does_no_harm(tmp_path):
    said = []
    with linked(tmp_path / "absent", {"nr": "/proc"}, said.append):
        assert len(said) == 1


def test_no_link_is_made_on_a_network_filesystem(tmp_path, monkeypatch):
    monkeypatch.setattr("cached_cli.links._filesystem_type", lambda _directory: 0x6969)
    said = []
    with linked(tmp_path, {"nr": "/proc"}, said.append):
        assert not os.path.lexists(tmp_path / "nr")
    assert "nfs" in said[0]


def test_a_local_directory_is_known_as_local(tmp_path):
    assert network_filesystem(tmp_path) == ""
