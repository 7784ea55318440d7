"""The links of measurements."""

from __future__ import annotations

import subprocess

import pytest

from bench import network

OURS = "echo cubic > "


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine that allows two congestion controls to all, and the commands that are given to it."""
    allowed = tmp_path / "allowed"
    allowed.write_text("reno bbr\n")
    monkeypatch.setattr(network, "_ALLOWED", allowed)
    monkeypatch.setattr(network, "_remove_leftovers", lambda: None)
    given: list[tuple[str, ...]] = []
    monkeypatch.setattr(network, "_ip", lambda *words: given.append(words))
    return allowed, given


def test_a_congestion_control_that_root_alone_may_use_is_allowed_to_all_while_there_are_namespaces(machine):
    allowed, given = machine
    with network.Network([0.0, 0.0], "cubic"):
        assert allowed.read_text().split() == ["reno", "bbr", "cubic"]
        assert sum(words[-1].startswith(OURS) for words in given) == 3
    assert allowed.read_text() == "reno bbr\n"


def test_what_the_machine_allows_stays_as_it_is_where_that_suffices(machine):
    allowed, _ = machine
    with network.Network([0.0], "bbr"):
        assert allowed.read_text() == "reno bbr\n"
    assert allowed.read_text() == "reno bbr\n"


def test_nothing_stays_allowed_where_a_namespace_could_not_be_made(machine, monkeypatch):
    allowed, _ = machine

    def refused(*words: str) -> None:
        raise subprocess.CalledProcessError(1, words)

    monkeypatch.setattr(network, "_ip", refused)
    with pytest.raises(subprocess.CalledProcessError), network.Network([0.0], "cubic"):
        pass
    assert allowed.read_text() == "reno bbr\n"
