"""Commands that make, change or check sets: what they ask for, how they warn, and how they end."""

from __future__ import annotations

from cached import wire
from tests.cli.conftest import SET_ID, replica, set_view


def test_create_asks_for_what_was_wished_and_prints_the_id(run, client, tmp_path):
    client.answers["create"] = set_view(tier="memory", replicas=[replica("n1", tier="memory")])
    made = run(
        *[
            "create",
            "nr",
            str(tmp_path),
            "--lease",
            "1d",
            "--min-lease",
            "1h",
            "--requirements",
            "true",
            "--replicas",
            "all",
        ],
        *["--methods", "direct", "--tier", "memory", "--share", "group:lab", "--replace"],
    )
    assert (made.code, made.out) == (0, SET_ID + "\n")
    assert made.err == "nr: 2 files, 3.0 MiB, leased for 1d\n"
    assert client.last[1] == (
        "nr",
        [str(tmp_path)],
        wire.CreateOptions(
            lease_seconds=86_400,
            min_lease_seconds=3600,
            requirements="true",
            replicas=-1,
            methods=("direct",),
            tier="memory",
            share="group:lab",
            replace=True,
        ),
    )
    assert run("create", "nr", str(tmp_path), "--json").json["id"] == SET_ID
    assert client.last[1][2] == wire.CreateOptions()


def test_a_lease_that_is_shorter_than_asked_is_a_warning(run, client):
    client.answers["create"] = set_view()
    warned = run("create", "nr", ".", "--lease", "7d")
    assert warned.code == 0
    assert "the lease is shorter than asked: 7d asked, 1d granted" in warned.err
    assert run("create", "nr", ".", "--lease", "1h").err.count("shorter") == 0


def test_a_memory_copy_that_is_missing_is_a_warning_and_no_failure(run, client):
    client.answers["create"] = set_view(
        tier="memory", replicas=[replica("n1", reason="no copy in memory now")]
    )
    warned = run("create", "nr", ".", "--tier", "memory")
    assert warned.code == 0
    assert "n1 holds it on disk alone: no copy in memory now" in warned.err
    client.answers["create"] = set_view(tier="memory", replicas=[replica("n1", tier="memory")])
    assert "disk alone" not in run("create", "nr", ".", "--tier", "memory").err


def test_ctrl_c_in_create_says_what_became_of_it(run, client):
    def interrupted(state):
        def work(report):
            report(wire.Progress(bytes_present=4, bytes_wanted=10, state=state))
            return KeyboardInterrupt()

        return work

    client.answers["create"] = interrupted("COPYING")
    ended = run("create", "nr", ".")
    assert ended.code == 130
    assert "nothing was stored" in ended.err
    client.answers["create"] = interrupted("SEALING")
    assert "may still commit" in run("create", "nr", ".").err


def reply(complete, *replicas):
    have = sum(1 for each in replicas if each.state == "COMMITTED")
    return wire.ReplicateReply(items=list(replicas), complete=complete, wanted=len(replicas), have=have)


def test_create_wait_waits_for_the_copies_and_tells_who_refused(run, client):
    client.answers["create"] = client.answers["show"] = set_view()
    client.answers["replicate"] = reply(True, replica("n1"), replica("n2"))
    assert run("create", "nr", ".", "--wait", "--replicas", "1").code == 0
    assert client.calls[1] == (
        "replicate",
        (f"id:{SET_ID}",),
        {"replicas": 1, "to": (), "wait": True, "timeout": 3600},
    )
    client.answers["replicate"] = reply(
        False, replica("n1"), replica("n2", state="REJECTED", reason="no space")
    )
    ended = run("create", "nr", ".", "--wait", "--json")
    assert ended.code == 5
    assert ended.json["id"] == SET_ID
    assert ended.error["details"]["items"][0]["reason"] == "no space"


def test_replicate_wait_ends_0_when_all_that_match_hold_it_5_when_some_refused_1_when_time_ran_out(
    run, client
):
    rejected, late = replica("n2", state="REJECTED", reason="drains"), replica("n2", state="TRANSFERRING")
    for answer, code in ((reply(True, rejected), 0), (reply(False, rejected), 5), (reply(False, late), 1)):
        client.answers["replicate"] = answer
        ended = run("replicate", "nr", "--wait", "--to", "n2", "--to", "n3", "--timeout", "5m")
        assert ended.code == code
    assert client.last[2] == {"replicas": None, "to": ("n2", "n3"), "wait": True, "timeout": 300}


def test_replicate_without_wait_does_not_judge(run, client):
    client.answers["replicate"] = reply(False, replica("n2", state="REQUESTED"))
    ended = run("replicate", "nr", "--replicas", "all")
    assert ended.code == 0
    assert client.last == ("replicate", ("nr",), {"replicas": -1, "to": (), "wait": False})
    assert "in the background" in ended.err


def test_who_waits_for_copies_is_told_which_nodes_do_not_match_and_why(run, client):
    def unmatched(number):
        reasons = ["set side: needs 48.0 GiB of disk, 12.0 GiB free", "node side: the same"]
        return wire.MatchView(
            node=f"n{number}", matches=False, set_side=False, node_side=False, reasons=reasons
        )

    few = wire.ReplicateReply(items=[], complete=True, wanted=0, have=0, unmatched=[unmatched(3)])
    many = wire.ReplicateReply(
        items=[], complete=True, wanted=0, have=0, unmatched=[unmatched(number) for number in range(100)]
    )
    client.answers.update(create=set_view(), show=set_view(), replicate=few)
    for words in (["replicate", "nr", "--wait"], ["replicate", "nr"], ["create", "nr", ".", "--wait"]):
        ended = run(*words)
        assert ended.code == 0
        assert "1 node does not match and will not hold nr:\n" in ended.err
        assert "  n3: set side: needs 48.0 GiB of disk, 12.0 GiB free\n" in ended.err
    assert run("replicate", "nr", "--wait", "--json").err == ""
    client.answers["replicate"] = many
    said = run("replicate", "nr", "--wait").err.splitlines()
    assert len(said) == 10
    assert said[-1] == "  and 92 more: cached match nr"


def test_who_waits_for_more_copies_than_there_are_nodes_is_told_so(run, client):
    client.answers["replicate"] = wire.ReplicateReply(items=[], complete=True, wanted=1, have=1)
    said = "1 of 99 copies are there; the others are made once more nodes"
    assert said in run("replicate", "nr", "--replicas", "99", "--wait").err
    for words in (["--replicas", "1"], ["--replicas", "all"], [], ["--replicas", "99", "--to", "n2"]):
        assert "copies are there" not in run("replicate", "nr", "--wait", *words).err
    assert run("replicate", "nr", "--replicas", "99", "--wait", "--json").err == ""


def test_a_transfer_that_failed_is_a_failure_and_no_refusal(run, client):
    failed = replica("n2", state="FAILED", reason="the transfer failed: no source")
    client.answers["replicate"] = reply(False, failed)
    ended = run("replicate", "nr", "--wait")
    assert ended.code == 1
    assert "1 failed" in ended.err
    assert "refused" not in ended.err
    assert "n2: the transfer failed: no source" in ended.out
    client.answers["replicate"] = reply(False, failed, replica("n3", state="REJECTED", reason="drains"))
    both = run("replicate", "nr", "--wait")
    assert both.code == 5
    assert "1 refused, 1 failed" in both.err


def test_ctrl_c_while_waiting_says_that_the_work_goes_on(run, client):
    client.answers["replicate"] = KeyboardInterrupt()
    ended = run("replicate", "nr", "--wait")
    assert ended.code == 130
    assert "go on making the copies" in ended.err


def test_update_sends_only_what_changes(run, client):
    client.answers["update"] = set_view(revision=2)
    assert run("update", "nr", "--requirements", "", "--replicas", "0").code == 0
    assert client.last == ("update", ("nr",), {"requirements": "", "replicas": 0})
    assert run("update", "nr", "--share", "public", "--json").json["revision"] == 2


def test_extend_tells_what_each_node_granted(run, client):
    grants = [
        wire.GrantView(node="n1", granted=True, seconds=86_400),
        wire.GrantView(node="n2", granted=True, seconds=3600, shortened=True, reason="max_lease is 1h"),
    ]
    client.answers["extend"] = wire.ExtendReply(set=set_view(), grants=grants)
    ended = run("extend", "nr", "1d", "--everywhere")
    assert ended.code == 0
    assert client.last == ("extend", ("nr", 86_400), {"everywhere": True})
    assert "n2 shortened the lease: 1d asked, 1h granted: max_lease is 1h" in ended.err
    refused = wire.GrantView(node="n3", granted=False, reason="drains")
    client.answers["extend"] = wire.ExtendReply(set=set_view(), grants=[*grants, refused])
    ended = run("extend", "nr", "1d", "--everywhere", "--json")
    assert ended.code == 5
    assert len(ended.json["grants"]) == 3


def test_delete_can_be_tried_first(run, client):
    client.answers["delete"] = wire.DeleteReply(
        set=SET_ID,
        name="nr",
        state="COMMITTED",
        dry_run=True,
        items=[wire.DeleteItem(node="n1", action="drop", bytes=1024)],
    )
    ended = run("delete", "nr", "--everywhere", "--dry-run")
    assert client.last == ("delete", ("nr",), {"everywhere": True, "dry_run": True})
    assert ended.out.splitlines()[1].split() == ["n1", "drop", "1.0", "KiB"]
    assert "dry run" in ended.err


def test_verify_ends_7_while_damage_remains(run, client):
    bad = wire.Damage(path="a", reason="another root")
    mended = wire.Damage(path="b", reason="missing", repaired=True)
    for reply, code in (
        (wire.VerifyReply(ok=True, damaged=[], bytes=10), 0),
        (wire.VerifyReply(ok=True, damaged=[mended], bytes=10), 0),
        (wire.VerifyReply(ok=False, damaged=[bad, mended], bytes=10), 7),
        (wire.VerifyReply(ok=False, damaged=[], bytes=0), 7),
    ):
        client.answers["verify"] = reply
        assert run("verify", "nr", "--json").code == code
    assert "--repair" in run("verify", "nr").err
