"""`cached usage` shows what is kept, and the ledger: for people, and exactly for programs."""

from __future__ import annotations

import csv
import io

import pytest
from cached.errors import Forbidden

from cached_cli.usage import gigabyte_hours

LINE = {
    "owner": "alice",
    "kind": "object",
    "tier": "memory",
    "scope": "run-1",
    "byte_seconds": 7_200_000_000_000.5,
    "saved_bytes": 1 << 30,
    "saved_operations": 12,
    "spent_bytes": 0,
    "spent_operations": 0,
}
SUMS = {name: value for name, value in LINE.items() if name not in ("owner", "kind", "tier", "scope")}
ANSWER = {
    "items": [{"owner": "alice", "bytes": 2048, "sets": 3, "quota_bytes": None}],
    "since": "2026-01-01T00:00:00Z",
    "ledger": [LINE, LINE | {"owner": "", "tier": "disk", "scope": ""}],
    "sums": SUMS,
}


def test_people_see_what_is_kept_and_what_was_taken(run, client):
    client.answers["usage"] = ANSWER
    ran = run("usage")
    assert ran.code == 0
    lines = [line.split() for line in ran.out.splitlines() if line]
    assert lines[:2] == [["OWNER", "SETS", "TAKE", "SETS", "QUOTA"], ["alice", "2.0", "KiB", "3", "-"]]
    assert lines[2] == ["taken", "since", "2026-01-01T00:00:00Z"]
    assert lines[3] == [
        "OWNER",
        "KIND",
        "TIER",
        "SCOPE",
        "GB·h",
        "SAVED",
        "READS",
        "SPENT",
        "REQUESTS",
    ]
    assert lines[4] == ["alice", "object", "memory", "run-1", "2.000", "1.0", "GiB", "12", "0", "B", "0"]
    assert lines[5][:4] == ["-", "object", "disk", "-"]
    assert lines[6][:2] == ["sum", "2.000"]


def test_what_is_asked_for_goes_to_the_node(run, client):
    client.answers["usage"] = ANSWER
    run("usage")
    assert client.last == ("usage", (), {"user": None, "since": None, "scope": None})
    run("usage", "--user", "bob", "--since", "7d", "--scope", "run-1")
    assert client.last == ("usage", (), {"user": "bob", "since": "7d", "scope": "run-1"})


def test_programs_get_exact_figures(run, client):
    client.answers["usage"] = ANSWER
    assert run("usage", "--json").json == ANSWER
    rows = list(csv.DictReader(io.StringIO(run("usage", "--csv").out)))
    assert [row["owner"] for row in rows] == ["alice", ""]
    assert float(rows[0]["byte_seconds"]) == LINE["byte_seconds"]
    assert rows[0] == {name: str(value) for name, value in LINE.items()}


def test_a_node_without_a_ledger_shows_what_is_kept(run, client):
    client.answers["usage"] = {"items": ANSWER["items"]}
    assert run("usage").out.count("\n") == 2
    assert run("usage", "--csv").out.count("\n") == 1


def test_both_formats_at_once_and_other_peoples_figures_are_refused(run, client):
    client.answers["usage"] = Forbidden("no")
    assert run("usage", "--csv", "--json").code == 2
    assert run("usage", "--user", "eve").code == 4


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0.000"),
        (3.6e12, "1.000"),
        (3.6e15, "1,000.000"),
        (3.6e10, "0.010"),
        (3.6e9, "0.001"),
        (12_345, "3.4e-09"),
    ],
)
def test_byte_seconds_are_said_in_gigabyte_hours(value, said):
    assert gigabyte_hours(value) == said
