"""Matching real ads: HTCondor's semantics, and reasons in words."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from cached.errors import BadConfig, BadExpression, UsageError
from cached.matching import ads, engine
from cached.matching.match import match, match_parsed
from cached.matching.parsed import Parsed
from cached.matching.untrusted import check_ad
from cached.sets.set import SetRecord
from hypothesis import given
from hypothesis import strategies as st

GIB = 1 << 30


def record(requirements: str = "", **changes) -> SetRecord:
    fields = {"bytes": GIB, "files": 3, "lease_seconds": 3600, "share": "public", **changes}
    return SetRecord(
        id="a" * 32,
        name="nr",
        owner="alice",
        content="c" * 64,
        originator="o",
        requirements=requirements,
        **fields,
    )


def facts(**changes) -> ads.NodeFacts:
    fields = {
        "total_disk_bytes": 100 * GIB,
        "memory_bytes": 4 * GIB,
        "cpus": 8,
        "arch": "x86_64",
        "opsys": "Linux",
    }
    return ads.NodeFacts(node_id="f" * 40, name="n3", machine="host3", **{**fields, **changes})


def verdict(requirements: str = "", policy: str = "", attributes=None, *, of=None, on=None):
    set_ad = ads.set_ad(of or record(requirements), lease_seconds_left=3600)
    return match(set_ad, ads.node_ad(on or facts(), policy, attributes))


def test_a_set_with_all_defaults_matches_a_roomy_node():
    assert verdict() == type(verdict())(True, True, True)


def test_a_set_that_does_not_fit_is_refused_by_both_sides_with_both_numbers():
    small = verdict(on=facts(total_disk_bytes=GIB // 2))
    assert (small.matches, small.set_side, small.node_side) == (False, False, False)
    assert small.reasons == (
        "set side: needs 1.0 GiB of disk, 512.0 MiB free",
        "node side: 512.0 MiB of disk free, the set needs 1.0 GiB",
    )


def test_two_sizes_that_read_alike_are_told_apart_by_their_bytes():
    assert verdict(on=facts(total_disk_bytes=GIB)).reasons[0] == (
        f"set side: needs {GIB} bytes of disk, {GIB} bytes free"
    )


def test_a_set_for_memory_that_does_not_fit_there_is_refused_in_words():
    assert verdict(of=record(tier="memory"), on=facts(memory_tier_bytes=GIB // 4)).reasons == (
        "set side: needs 1.0 GiB of memory, 256.0 MiB free",
    )


def test_a_false_condition_is_named_with_its_values():
    refused = verdict('TARGET.Cpus > 2 && TARGET.Memory >= 8192 && TARGET.Arch == "X86_64"')
    assert refused.reasons == ("set side: TARGET.Memory >= 8192 is false: TARGET.Memory is 4096 (4.0 GiB)",)
    assert (refused.set_side, refused.node_side) == (False, True)


def test_a_missing_attribute_is_undefined_does_not_match_and_is_named():
    assert verdict("TARGET.HasGPU").reasons == (
        "set side: TARGET.HasGPU is undefined (node n3 has no such attribute)",
    )
    refused = verdict("TARGET.GpuMemory > 8")
    assert refused.reasons == (
        "set side: TARGET.GpuMemory is undefined (node n3 has no such attribute), in: TARGET.GpuMemory > 8",
    )
    assert "neither set nr nor node n3" in verdict("HasGPU").reasons[0]


def test_the_sites_policy_is_combined_with_the_nodes_disk_test():
    refused = verdict(policy='TARGET.Owner != "alice"')
    assert refused.reasons == ('node side: TARGET.Owner != "alice" is false: TARGET.Owner is "alice"',)
    assert (refused.set_side, refused.node_side) == (True, False)
    full = verdict(policy='TARGET.Owner != "mallory"', on=facts(total_disk_bytes=1000))
    assert any(reason == "node side: 0 B of disk free, the set needs 1.0 GiB" for reason in full.reasons)


def test_requirements_that_mention_disk_replace_the_default_test():
    tiny = facts(total_disk_bytes=1000)
    assert not verdict("true", policy="TARGET.DiskUsage < 2000000", on=tiny).set_side
    assert verdict("TARGET.totaldisk >= 0", policy="TARGET.DiskUsage < 2000000", on=tiny).matches


def test_requirements_cannot_break_out_of_the_rules_that_join_them():
    with pytest.raises(BadExpression):
        ads.set_ad(record("true) || (true", share="private"), lease_seconds_left=1)
    with pytest.raises(BadExpression):
        ads.node_ad(facts(), "true; Name = 1")


def test_a_private_set_goes_to_a_node_without_isolation_only_for_its_own_user():
    private = record(share="private")
    assert verdict(of=private, on=facts(isolation="uid")).matches
    assert verdict(of=private, on=facts(isolation="none", user="alice")).matches
    refused = verdict(of=private, on=facts(isolation="none", user="Alice"))
    assert not refused.set_side
    assert 'TARGET.User is "Alice"' in refused.reasons[0]
    assert verdict(of=record("true || true", share="private"), on=facts(isolation="none")).matches is False
    assert verdict(of=record(share="public"), on=facts(isolation="none", user="bob")).matches


def test_sets_of_the_memory_tier_need_room_there_and_none_on_disk():
    memory = record(tier="memory")
    assert verdict(of=memory, on=facts(total_disk_bytes=0, memory_tier_bytes=2 * GIB)).matches
    assert not verdict(of=memory, on=facts(memory_tier_bytes=GIB // 2)).matches


def test_a_job_that_asks_can_be_told_from_a_push():
    wanted = record("MY.CacheRequested =?= true")
    pushed, asked = (ads.set_ad(wanted, lease_seconds_left=1, requested=flag) for flag in (False, True))
    assert not match(pushed, ads.node_ad(facts())).matches
    assert match(asked, ads.node_ad(facts())).matches


def test_site_attributes_join_the_ad_and_may_overwrite_facts_but_not_identity():
    attributes = {"Site": '"nebraska"', "memory": "65536", "Big": "MY.Memory > 1000", "Ratio": "0.5"}
    assert verdict(
        'TARGET.Site == "nebraska" && TARGET.Big && TARGET.Memory == 65536', attributes=attributes
    ).matches
    ad = ads.node_ad(facts(), attributes=attributes)
    assert (ad["Site"], ad["memory"], ad["Big"]) == ("nebraska", 65536, ads.expr("MY.Memory > 1000"))
    assert "Memory" not in ad
    for name in ("Name", "totaldisk", "Requirements", "no name", "x" * 65):
        with pytest.raises(BadConfig):
            ads.node_ad(facts(), attributes={name: "1"})
    with pytest.raises(BadExpression) as caught:
        ads.node_ad(facts(), attributes={"Site": "nebraska ("})
    assert "[attributes] Site" in caught.value.message


def test_ads_have_cached_names_in_htcondors_units_and_are_json():
    set_ad = ads.set_ad(record(bytes=1025), lease_seconds_left=100, lease_expiration=1_700_000_000)
    assert (set_ad["DiskUsage"], set_ad["DiskUsageBytes"], set_ad["LeaseExpiration"]) == (
        2,
        1025,
        1_700_000_000,
    )
    node_ad = ads.node_ad(facts(total_disk_bytes=GIB, memory_bytes=16 * GIB))
    assert (node_ad["TotalDisk"], node_ad["TotalDiskBytes"]) == (1 << 20, GIB)
    assert (node_ad["DetectedMemory"], node_ad["Arch"], node_ad["OpSys"]) == (16384, "X86_64", "LINUX")
    for ad in (set_ad, node_ad):
        assert json.loads(json.dumps(ad)) == check_ad(ad)
    assert ads.plain(node_ad)["Requirements"] == ads.NODE_DEFAULT


@given(st.integers(0, 2**50))
def test_coarse_figures_are_a_little_below_and_come_in_few_steps(value):
    step = ads.coarse(value)
    assert value * 63 / 64 - 1 < step <= value
    assert ads.coarse(step) == step
    assert (step).bit_count() <= 7


@given(st.integers(0, 2**50), st.integers(0, 2**50))
def test_coarse_figures_keep_their_order(left, right):
    assert (ads.coarse(left) <= ads.coarse(right)) or left > right


_values = [
    "true",
    "false",
    "undefined",
    "error",
    '"true"',
    "1",
    "0",
    "-2",
    "0.0",
    "0.5",
    "{}",
    "Missing",
    "a",
]
_values += [
    "TARGET.b",
    "b",
    "MY.b ?: true",
    "TARGET.Missing =?= undefined",
    "undefined || true",
    "error || true",
]


@pytest.mark.parametrize("left", _values)
def test_verdicts_are_htcondors_own(left):
    for right in ("true", "TARGET.a == 1", "0.5", '"x"', "a is 1"):
        set_ad = {"a": 1, "Requirements": ads.expr(left)}
        node_ad = {"b": True, "Requirements": ads.expr(right)}
        theirs = Parsed(set_ad).ad.symmetricMatch(Parsed(node_ad).ad)
        ours = match(set_ad, node_ad)
        assert ours.matches == theirs, (left, right)
        assert bool(ours.reasons) != theirs


def test_no_requirements_at_all_do_not_match():
    assert match({"A": 1}, {"Requirements": True}).reasons == (
        "set side: the requirements of the set are undefined",
    )
    assert match({"Requirements": "true"}, {"Requirements": True}).reasons == (
        'set side: the requirements of the set are "true"',
    )


def test_the_evaluator_is_told_whose_requirements_come_next():
    entered = []
    pair = Parsed({"Requirements": True}), Parsed({"Requirements": False})
    match_parsed(*pair, entered.append)
    assert entered == ["set", "node"]


def test_reasons_are_single_lines_even_for_hostile_names():
    ad = {**ads.node_ad(facts()), "Name": "n\n1\x1b[2J", "Evil": "a\nb"}
    refused = match(ads.set_ad(record('TARGET.Evil == "x" && TARGET.Nope'), lease_seconds_left=1), ad)
    assert len(refused.reasons) == 2
    assert all(reason.isprintable() for reason in refused.reasons)


@pytest.mark.parametrize("ad", [None, {"a" * 65: 1}, {f"A{n}": n for n in range(257)}, {"A": "x" * 4097}])
def test_ads_out_of_bounds_are_refused(ad):
    with pytest.raises(UsageError):
        check_ad(ad)


def test_loading_the_library_says_nothing_and_leaves_the_environment_alone():
    code = "import os, cached.matching.engine; print(os.environ.get('CONDOR_CONFIG'))"
    for configured in (None, "/some/where"):
        environment = {name: value for name, value in os.environ.items() if name != "CONDOR_CONFIG"}
        if configured:
            environment["CONDOR_CONFIG"] = configured
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        assert (done.stdout, done.stderr) == (f"{configured}\n", "")


def test_htcondors_own_functions_are_there():
    assert engine.ExprTree('stringListMember("a", "a,b")').eval() is True
