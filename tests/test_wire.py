from __future__ import annotations

import json

import pytest
from cached import wire
from cached.errors import UsageError

CONTRACT = {
    wire.SetView: "name owner id content revision bytes files state requirements methods share originator "
    "lease replicas",
    wire.LeaseView: "expires_at seconds_left",
    wire.ReplicaView: "node host state tier bytes_present lease_seconds_left reason",
    wire.NodeView: "name id host address alive capacity_bytes free_bytes sets attributes",
    wire.MatchView: "node matches set_side node_side reasons",
    wire.LocateView: "node host state bytes_present bytes_wanted lease_seconds_left free_bytes matches "
    "estimate_seconds",
    wire.LocateReply: "items directory_age_seconds",
}


@pytest.mark.parametrize("kind", CONTRACT)
def test_the_contract_fields_are_there(kind):
    assert set(CONTRACT[kind].split()) <= set(kind.__struct_fields__)


def test_fields_without_a_value_are_null_in_the_json():
    view = wire.ReplicaView(node="a", host="h", state="REQUESTED", tier="disk", bytes_present=0)
    assert json.loads(wire.encode(view)) == {
        "node": "a",
        "host": "h",
        "state": "REQUESTED",
        "tier": "disk",
        "bytes_present": 0,
        "lease_seconds_left": None,
        "reason": "",
        "volatile": False,
        "node_id": "",
        "alive": True,
        "bytes_per_second": None,
        "seconds_left": None,
    }


def test_values_read_back_as_they_were():
    options = wire.CreateOptions(lease_seconds=60, replicas=-1, methods=("direct",), share="group:staff")
    assert wire.decode(wire.encode(options), wire.CreateOptions) == options
    assert wire.convert(json.loads(wire.encode(options)), wire.CreateOptions) == options


def test_measured_and_whole_durations_both_read_back():
    for seconds in (7, 7.25):
        lease = wire.LeaseView(expires_at="2026-01-31T12:00:00Z", seconds_left=seconds)
        assert wire.decode(wire.encode(lease), wire.LeaseView) == lease


def test_unknown_fields_are_ignored_and_lists_are_items():
    assert wire.decode(b'{"expires_at":"x","seconds_left":1,"new":2}', wire.LeaseView).seconds_left == 1
    assert wire.items(iter([1, 2])) == {"items": [1, 2]}


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"tier":"tape"}', b'{"replicas":"many"}', b"[]"])
def test_what_does_not_fit_is_a_usage_error(data):
    with pytest.raises(UsageError, match="not well formed"):
        wire.decode(data, wire.CreateOptions)


def test_a_parsed_value_that_does_not_fit_names_the_field():
    with pytest.raises(UsageError, match=r"\$\.tier"):
        wire.convert({"tier": "tape"}, wire.CreateOptions)
