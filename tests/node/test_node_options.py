"""What the creator of a set may ask for."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from cached import wire
from cached.errors import Refused, UsageError
from cached.node import options
from cached.sets.set import ALL
from tests.node.doubles import FakeMatchmaker
from tests.node.fakes import configured


def node_with(tmp_path, *, memory=False, **config):
    stores = {"disk": None} | ({"memory": None} if memory else {})
    return SimpleNamespace(config=configured(tmp_path, **config), matchmaker=FakeMatchmaker(), stores=stores)


def wanted(node, **asked):
    return asyncio.run(options.wanted(node, wire.CreateOptions(**asked)))


def test_what_is_not_said_is_what_the_node_is_configured_for(tmp_path):
    node = node_with(tmp_path, replicas=3, methods=("direct",))
    asked = wanted(node)
    assert (asked.replicas, asked.methods, asked.tier, asked.share) == (3, ("direct",), "disk", "private")
    assert node.matchmaker.checked == []


def test_requirements_are_checked_and_kept_without_their_margins(tmp_path):
    node = node_with(tmp_path)
    assert wanted(node, requirements="  TARGET.Memory > 1 ").requirements == "TARGET.Memory > 1"
    assert node.matchmaker.checked == ["  TARGET.Memory > 1 "]


@pytest.mark.parametrize("share", ["private", "public", "group:lab", "group:domain-users$"])
def test_sets_are_shared_with_nobody_a_group_or_everybody(share):
    assert options.share(share) == share


@pytest.mark.parametrize(
    "share", ["", "group:", "group: lab", "user:bob", "Public", "group:a\nb", "private "]
)
def test_other_ways_to_share_are_refused(share):
    with pytest.raises(UsageError):
        options.share(share)


def test_a_number_of_replicas_is_zero_or_more_or_all():
    assert [options.replica_count(value) for value in (0, 5, ALL)] == [0, 5, ALL]
    for value in (-2, 10**7):
        with pytest.raises(UsageError):
            options.replica_count(value)


def test_methods_are_known_ones_each_once():
    assert options.methods(("direct", "bittorrent", "direct")) == ("direct", "bittorrent")
    for values in ((), ("carrier-pigeon",)):
        with pytest.raises(UsageError):
            options.methods(values)


def test_memory_is_refused_where_there_is_none(tmp_path):
    assert wanted(node_with(tmp_path, memory=True), tier="memory").tier == "memory"
    with pytest.raises(Refused):
        wanted(node_with(tmp_path), tier="memory")


def test_where_a_set_is_kept_is_an_address_without_the_slash_at_its_end(tmp_path):
    assert wanted(node_with(tmp_path), origin="gs://bucket/prefix/").origin == "gs://bucket/prefix"
    for text in ("bucket/prefix", "gs://", "gs://B/x", "gs://bucket/a\nb"):
        with pytest.raises(UsageError):
            wanted(node_with(tmp_path), origin=text)


def record_of(asked, **changes):
    facts = {"requirements": asked.requirements, "share": asked.share, "replicas": asked.replicas}
    facts |= {"methods": asked.methods, "tier": asked.tier, "scope": asked.scope}
    return SimpleNamespace(**{**facts, **changes})


_OTHERS = {
    "requirements": ("true", "false"),
    "share": ("private", "public"),
    "replicas": (3, 4),
    "methods": (("direct",), ("bittorrent",)),
    "tier": ("disk", "memory"),
}


@pytest.mark.parametrize("option", sorted(_OTHERS))
def test_an_option_that_was_not_said_is_the_same_as_any(tmp_path, option):
    said, other = _OTHERS[option]
    node = node_with(tmp_path, memory=True)
    silent, explicit = wanted(node), wanted(node, **{option: said})
    assert silent.same(record_of(silent, **{option: other}))
    assert explicit.same(record_of(explicit))
    assert not explicit.same(record_of(explicit, **{option: other}))


def test_the_default_is_something_to_ask_for(tmp_path):
    for asked in ({"share": "private"}, {"tier": "disk"}, {"requirements": ""}):
        explicit = wanted(node_with(tmp_path), **asked)
        there = record_of(explicit, share="public", tier="memory", requirements="true")
        assert not explicit.same(there)
