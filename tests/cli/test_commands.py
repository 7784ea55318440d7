"""Every command: what it asks of the client, what it prints, and how it ends."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cached import wire
from cached.errors import (
    BadExpression,
    CachedError,
    DaemonUnreachable,
    Forbidden,
    IntegrityFailed,
    LeaseRefused,
    NoSpace,
    NotFound,
)
from tests.cli.conftest import replica, set_view


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CachedError("x"), 1),
        (BadExpression("x"), 2),
        (NotFound("x"), 3),
        (Forbidden("x"), 4),
        (LeaseRefused("x"), 5),
        (DaemonUnreachable("x"), 6),
        (IntegrityFailed("x"), 7),
    ],
)
def test_every_error_has_its_exit_code_and_its_json(run, client, error, code):
    client.answers["show"] = error
    plain, machine = run("show", "nr"), run("show", "nr", "--json")
    assert (plain.code, machine.code) == (code, code)
    assert plain.out == machine.out == ""
    assert plain.err == "cached: x\n"
    assert machine.error == {"code": error.code, "message": "x", "hint": "", "details": {}}


def test_an_error_tells_what_why_and_what_next(run, client):
    client.answers["show"] = NoSpace(
        "nr does not fit", hint="see cached usage", bytes_needed=2048, bytes_free=1024
    )
    assert (
        run("show", "nr").err
        == "cached: nr does not fit\n  needed: 2.0 KiB\n  free: 1.0 KiB\n  hint: see cached usage\n"
    )


def test_candidates_of_an_ambiguous_name_are_listed(run, client):
    candidates = [
        {"name": "nr", "owner": "bob", "id": "b" * 32},
        {"name": "nr", "owner": "eve", "id": "e" * 32},
    ]
    client.answers["show"] = NotFound("several", candidates=candidates)
    assert "nr  bob  bbbb" in run("show", "nr").err


@pytest.mark.parametrize(
    "arguments",
    [
        ["show"],
        ["no-such-command"],
        ["list", "--no-such-option"],
        ["create", "nr"],
        ["create", "nr", ".", "--lease", "7"],
        ["create", "nr", ".", "--replicas", "-3"],
        ["create", "nr", ".", "--replicas", "some"],
        ["create", "nr", ".", "--methods", "pigeon"],
        ["create", "nr", ".", "--share", "group:"],
        ["create", "nr", ".", "--tier", "tape"],
        ["extend", "nr", "soon"],
        ["update", "nr"],
        ["cat", "nr"],
        ["locate"],
        ["locate", "nr", "--format", "slurm"],
        ["config", "show", "--set", "name"],
        ["cluster", "admit"],
    ],
)
def test_what_is_not_well_formed_ends_with_2_before_anything_is_asked(run, client, arguments):
    plain, machine = run(*arguments), run("--json", *arguments)
    assert (plain.code, machine.code) == (2, 2)
    assert plain.err.startswith("cached: ")
    assert machine.error["code"] == "usage"
    assert machine.error["hint"]
    assert client.calls == []


def test_global_options_stand_before_or_after_the_subcommand(run, client):
    client.answers["nodes"] = []
    assert run("--json", "nodes").json == run("nodes", "--json").json == {"items": []}
    assert run("config", "--json", "show", "--set", "x").error["code"] == "usage"


def test_list_prints_a_table_or_items(run, client):
    client.answers["list"] = [set_view(), set_view(name="x" * 120, lease=None, replicas=[])]
    plain = run("list", "--local")
    assert client.last == ("list", (), {"local": True})
    head, row = (" ".join(line.split()) for line in plain.out.splitlines()[:2])
    assert head == "NAME OWNER FILES SIZE STATE LEASE REPLICAS SHARE"
    assert row == "nr alice 2 3.0 MiB COMMITTED 1d 1 private"
    assert "x" * 120 in plain.out
    assert [entry["name"] for entry in run("list", "--json").json["items"]] == ["nr", "x" * 120]


def test_copies_of_dead_nodes_do_not_count_as_held(run, client):
    client.answers["show"] = known = set_view(
        replicas=[
            replica("n1"),
            replica("n2", alive=False, reason="node not seen for 60 s"),
            replica("n3", state="GOING"),
        ]
    )
    client.answers["list"] = [known]
    shown = run("show", "nr").out
    assert "1 held, 1 on nodes that are not seen, all wanted besides the first" in shown
    assert "node not seen for 60 s" in shown
    assert "COMMITTED 1d 1 private" in " ".join(run("list").out.splitlines()[1].split())


def test_show_and_files_tell_of_one_set(run, client):
    client.answers["show"] = set_view(requirements="TARGET.Memory >= 8192")
    client.answers["files"] = [
        wire.FileView(path="a b[red]", kind="file", size=10, executable=True),
        wire.FileView(path="d", kind="dir"),
        wire.FileView(path="l", kind="link", target="d"),
    ]
    shown = run("show", "nr").out
    assert "TARGET.Memory >= 8192" in shown
    assert "n1    COMMITTED  disk" in shown
    listed = run("files", "nr").out.splitlines()
    assert [line.split(maxsplit=2) for line in listed[1:]] == [
        ["program", "10", "B  a b[red]"],
        ["dir", "-", "d"],
        ["link", "-", "l -> d"],
    ]
    assert run("files", "nr", "--json").json["items"][2]["target"] == "d"


def test_text_from_others_cannot_speak_to_the_terminal(run, client):
    client.answers["match"] = [
        wire.MatchView(
            node="n\x1b[2J", matches=False, set_side=False, node_side=True, reasons=["\x07\u202eevil"]
        )
    ]
    out = run("match", "nr").out
    assert "\x1b" not in out
    assert "n\\x1b[2J" in out
    assert "\\u202eevil" in out


def test_match_names_the_side_that_refuses_and_why(run, client):
    def view(node, set_side, node_side, *reasons):
        matches = set_side and node_side
        return wire.MatchView(
            node=node, matches=matches, set_side=set_side, node_side=node_side, reasons=list(reasons)
        )

    client.answers["match"] = [
        view("a", True, True),
        view("b", False, True, "Memory is 100"),
        view("c", True, False, "Owner is x"),
        view("d", False, False, "one", "two"),
    ]
    rows = [line.split(maxsplit=2) for line in run("match", "nr").out.splitlines()[1:]]
    assert rows[0] == ["a", "yes"]
    assert [" ".join(row[2].split()) for row in rows[1:]] == [
        "set Memory is 100",
        "node Owner is x",
        "set and node one; two",
    ]


def test_locate_ranks_and_tells_how_old_its_knowledge_is(run, client, tmp_path):
    view = wire.LocateView(
        node="n1",
        host="h",
        state="COMMITTED",
        bytes_present=1024,
        bytes_wanted=1024,
        lease_seconds_left=None,
        free_bytes=2048,
        matches=True,
        estimate_seconds=0,
    )
    sets = [
        wire.LocatedSet(name="nr", id="a" * 32, available="whole"),
        wire.LocatedSet(name="other", id="b" * 32, available="partial"),
    ]
    client.answers["locate"] = wire.LocateReply(items=[view], directory_age_seconds=1.5, sets=sets)
    ad = tmp_path / "job.ad"
    ad.write_text("RequestMemory = 1")
    plain = run("locate", "nr", "other", "--job-ad", str(ad))
    assert client.last == ("locate", (["nr", "other"],), {"job_ad": "RequestMemory = 1"})
    row = " ".join(plain.out.splitlines()[1].split())
    assert row == "n1 h COMMITTED 1.0 KiB 1.0 KiB - 2.0 KiB yes 0s"
    assert plain.err.splitlines() == [
        "other: live nodes hold only parts of it: who lacks it cannot get it now",
        "as this node knew it 1s ago",
    ]
    run("locate", "nr", "--job-ad", "-", input="[A = 1]")
    assert client.last[2] == {"job_ad": "[A = 1]"}
    ad.write_bytes(b"\xff")
    assert run("locate", "nr", "--job-ad", str(ad)).code == 2
    found = run("locate", "nr", "--format", "json").json
    assert found["directory_age_seconds"] == 1.5
    assert found["items"][0]["estimate_seconds"] == 0


STATUS = {
    "name": "n1",
    "id": "f" * 40,
    "host": "h1",
    "address": "10.0.0.1:7400",
    "reachable": True,
    "state": "running",
    "health": ["the disk tier is full", "look at the log"],
    "uptime_seconds": 90.2,
    "directory_age_seconds": 1.0,
    "nodes": {"known": 3, "alive": 2},
    "sets": {"known": 4, "replicas": {"COMMITTED": 3}},
    "open": 2,
    "tiers": {
        "disk": {
            "capacity_bytes": 10 << 30,
            "free_bytes": 2048,
            "committed_bytes": 7 << 30,
            "reserved_bytes": 0,
            "going_bytes": 0,
        }
    },
    "transfers": [{"set": "f" * 40, "name": "nr", "bytes_present": 1024, "bytes_wanted": 2048, "reason": ""}],
    "traffic": [
        {
            "set": "e" * 40,
            "name": "nr",
            "content": "c" * 64,
            "bytes_sent": 2048,
            "bytes_received": 0,
            "bytes_redundant": 1,
            "by_method": {},
        }
    ],
    "objects": {
        "advice": "memory should grow",
        "byte_hit_rate": 0.9171,
        "hit_rate": 0.5,
        "working_set_bytes": 4096,
        "working_set_fits": 1.0,
        "working_set_fits_memory": None,
        "copies": 5,
        "open": 1,
        "tiers": {"disk": {"capacity_bytes": 1 << 30, "used_bytes": 1 << 20}},
        "hits": {"memory": {"reads": 3, "bytes": 3072}, "disk": {"reads": 0, "bytes": 0}},
        "misses": {"reads": 3, "bytes": 1024},
        "gone": {"room": 7, "twin": 0},
        "redis": {"state": "none", "troubles": []},
        "origin": {
            "requests": {"stat": 9, "list": 0},
            "retries": {"503": 2},
            "bytes_in": 1024,
            "bytes_out": 0,
        },
    },
    "counters": {"objects.read_through": 4, "objects.gone.room": 7, "scrubbed": 0, "odd.event": 1},
}


def test_status_says_what_matters_in_sections_and_words(run, client):
    client.answers["status"] = STATUS
    out = run("status").out
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines() if line}
    assert lines["node"] == "n1, running for 1m 30s"
    assert lines["cluster"] == "2 of 3 known nodes alive, heard of them 1s ago"
    assert lines["sets"] == "4 known; here 3 COMMITTED; pinned by 2 opens"
    assert lines["health"] == "the disk tier is full"
    assert "look at the log" in out
    assert lines["disk"] == "10.0 GiB 2.0 KiB 7.0 GiB 0 B 0 B 1.0 MiB 1.0 GiB"
    assert lines["objects"] == "memory should grow"
    assert "3 (3.0 KiB) from memory, 3 (1.0 KiB) from Cloud Storage" in out
    assert f"nr {'e' * 12} 2.0 KiB 0 B 1 B" in [" ".join(line.split()) for line in out.splitlines()]
    assert f"nr {'f' * 12} - - 1.0 KiB 2.0 KiB -" in [" ".join(line.split()) for line in out.splitlines()]
    assert "c" * 13 not in out, "what only programs want is in the JSON"
    assert "pinned by 1 open\n" in out
    assert "50.0% of the reads, 91.7% of the bytes" in out
    assert "4.0 KiB; 100.0% of it fit, - in memory" in out
    assert "Cloud Storage 9 stat, 2 of them again; 1.0 KiB received, 0 B sent" in out
    assert "7 room" in out
    assert "Redis" not in out
    assert " ".join(next(line for line in out.splitlines() if "read_through" in line).split()) == (
        "4 opens read from Cloud Storage and not kept objects.read_through"
    )
    assert lines["1"] == "odd.event"
    assert "scrubbed" not in out
    assert "objects.gone" not in out
    assert run("status", "--json").json == STATUS


def test_the_status_of_a_node_that_did_nothing_yet_is_short(run, client):
    client.answers["status"] = {
        "name": "n1",
        "nodes": {"known": 1, "alive": 1},
        "sets": {"known": 0, "replicas": {}},
        "objects": {"advice": "no objects were read lately", "hits": {"disk": {"reads": 0, "bytes": 0}}},
        "counters": {"origin.bytes_in": 0},
    }
    out = run("status").out
    assert "nothing to look at" in out
    assert "no objects were read lately" in out
    assert len(out.splitlines()) < 10


def test_nodes_are_listed_with_the_space_that_they_have(run, client):
    client.answers["nodes"] = [
        wire.NodeView(
            name="n1",
            id="f" * 40,
            host="h",
            address="h:1",
            alive=False,
            capacity_bytes=2048,
            free_bytes=0,
            sets=3,
            attributes={},
            age_seconds=12.3,
        )
    ]
    assert run("nodes").out.splitlines()[1].split() == [
        "n1",
        "h",
        "h:1",
        "no",
        "3",
        "0",
        "B",
        "2.0",
        "KiB",
        "12s",
        "ago",
        "f" * 12,
    ]


def test_names_of_sets_are_completed_by_asking_the_daemon(run, client):
    client.answers["list"] = [set_view(), set_view(name="other")]
    asked = {"_CACHED_COMPLETE": "bash_complete", "COMP_WORDS": "cached show n", "COMP_CWORD": "2"}
    assert run(env=asked).out == "plain,nr\n"
    client.answers["list"] = DaemonUnreachable("none")
    assert run(env=asked).out.strip() == ""


def test_a_node_s_libraries_may_be_absent(run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cached.daemon", None)
    monkeypatch.delattr("cached.daemon", raising=False)
    ended = run("daemon")
    assert ended.code == 1
    assert "cachesets[daemon]" in ended.err


@pytest.mark.parametrize("group", [(), ("cluster",), ("config",)])
def test_without_a_command_the_help_is_shown_as_it_is(run, group):
    ran = run(*group)
    assert (ran.code, ran.out) == (2, "")
    assert "\nOptions:\n" in ran.err
    assert "\\n" not in ran.err


def test_a_closed_stdout_is_a_failure_in_words():
    command = [sys.executable, "-c", "from cached_cli.main import main; main()", "config", "show"]
    for closed, code in (("1", 1), ("0", 0)):
        ran = subprocess.run(
            ["sh", "-c", f'"$@" {closed}>&-', "sh", *command], capture_output=True, text=True, check=False
        )
        assert ran.returncode == code, ran.stderr
        assert "Traceback" not in ran.stderr
        assert ("Bad file descriptor" in ran.stderr) == (code == 1)
