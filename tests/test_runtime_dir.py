"""The directory of the local sockets: nobody else may put theirs there, or lead us elsewhere."""

from __future__ import annotations

import os

import pytest
from cached.errors import BadConfig
from cached.machine import make_runtime_dir


def test_a_directory_of_ones_own_is_made_and_used_again(tmp_path):
    make_runtime_dir(tmp_path / "run" / "cached")
    make_runtime_dir(tmp_path / "run" / "cached")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    make_runtime_dir(tmp_path / "link")


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_a_directory_in_which_others_may_write_is_refused(tmp_path, mode):
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(BadConfig, match="others may write"):
        make_runtime_dir(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes links of other users")
def test_a_link_of_somebody_else_is_refused_also_when_it_leads_to_a_directory_of_our_own(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "mine")
    os.lchown(tmp_path / "run", 12345, 12345)
    with pytest.raises(BadConfig, match="belongs to user 12345"):
        make_runtime_dir(tmp_path / "run")
