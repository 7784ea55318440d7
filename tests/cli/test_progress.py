"""What is shown of transfers: in a table, on a terminal, and when somebody has had enough of waiting."""

from __future__ import annotations

import pytest
from cached import wire
from rich.cells import cell_len
from tests.cli.conftest import replica, set_view

from cached_cli.picture import lines, row
from cached_cli.progress import Meter, shown
from cached_cli.session import Session

MIB = 1 << 20
LONG = "no node that has the set can be reached: " + "it was tried again and again, " * 5


def coming(node: str, **changes):
    facts = {"state": "TRANSFERRING", "bytes_present": 1023 * MIB, "bytes_wanted": 4 << 30}
    return wire.NodeProgress(node=node, **{**facts, **changes})


def drawn(width: int, *nodes: wire.NodeProgress) -> list[str]:
    meter = Meter("nr", Session())
    meter(wire.Progress(bytes_present=3, bytes_wanted=8 << 30, state="replicating", nodes=list(nodes)))
    return [str(line) for line in lines(meter.rows(), width)]


def test_show_tells_how_fast_copies_come_in_a_table_of_80_columns(run, client):
    client.answers["show"] = set_view(
        replicas=[
            replica("n1", bytes_present=1023 * MIB, lease_seconds_left=6 * 86_400 + 82_800),
            replica(
                "node-0123.cluster",
                state="TRANSFERRING",
                bytes_present=1023 * MIB,
                bytes_per_second=1023.9 * MIB,
                seconds_left=86_000,
                lease_seconds_left=6 * 86_400 + 82_800,
            ),
            replica("n3", state="REQUESTED", reason=LONG),
        ]
    )
    table = run("show", "nr").out.partition("\n\n")[2].splitlines()
    assert table[0].split() == ["NODE", "STATE", "TIER", "PRESENT", "RATE", "LEFT", "LEASE"]
    assert "1023.9 MiB/s  23h 53m" in table[2]
    assert max(len(line) for line in table[:4]) <= 80
    assert table[4] == f"n3: {LONG}"


def test_show_has_no_columns_for_what_does_not_move(run, client):
    client.answers["show"] = set_view()
    table = run("show", "nr").out.partition("\n\n")[2].splitlines()
    assert table[0].split() == ["NODE", "STATE", "TIER", "PRESENT", "LEASE"]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 160])
def test_no_line_of_progress_is_wider_than_the_terminal(width):
    found = drawn(
        width,
        coming(
            "node-with-a-rather-long-name.example.org", bytes_per_second=1023.9 * MIB, seconds_left=86_000
        ),
        coming("n2", reason=LONG),
        coming("\N{CJK UNIFIED IDEOGRAPH-7BC0}" * 30),
    )
    assert len(found) == 4
    assert max(cell_len(line) for line in found) <= width


def test_a_long_reason_leaves_the_figures_where_they_are():
    _, slow, quick = drawn(80, coming("n1", reason=LONG), coming("n2", bytes_per_second=MIB, seconds_left=61))
    assert "1023.0 MiB of 4.0 GiB  no node that" in slow
    assert slow.endswith("…")
    assert slow.index("1023.0") == quick.index("1023.0")
    assert quick.rstrip().endswith("1.0 MiB/s    1m 1s left")


def test_of_several_nodes_the_set_is_named_once_and_each_node_by_its_name():
    assert [line.split()[0] for line in drawn(80, coming("n1"), coming("n2"))] == ["nr", "n1", "n2"]
    assert [name for name, _ in shown("nr", {"nodes": [{"node": "n1"}]})] == ["nr on n1"]


def test_who_creates_and_waits_sees_the_set_by_its_name(run, client, tmp_path, monkeypatch):
    labels = []
    monkeypatch.setattr(Meter, "__enter__", lambda self: labels.append(self.label) or self)
    client.answers.update(
        create=set_view(),
        show=set_view(),
        replicate=wire.ReplicateReply(items=[], complete=True, wanted=0, have=0),
    )
    assert run("create", "nr", str(tmp_path), "--wait").code == 0
    assert labels == ["nr", "nr"]


def test_no_rate_is_shown_before_a_second_of_bytes_and_no_time_left_without_a_rate():
    now = [0.0]
    meter, seen = Meter("nr", Session(), now=lambda: now[0]), []
    for step in range(6):
        now[0] = step / 2
        meter(wire.Progress(bytes_present=step * MIB, bytes_wanted=8 * MIB, state="COPYING"))
        (found,) = meter.rows()
        seen.append((found.rate, found.left))
    assert seen[:3] == [(None, None)] * 3
    assert seen[3] == (2 * MIB, 2.5)
    assert row("n1", {"seconds_left": 5.0, "bytes_per_second": None}).left is None


def interrupted(report):
    def answer(progress):
        if report is not None:
            progress(report)
        raise KeyboardInterrupt

    return answer


FETCHING = wire.Progress(state="transferring", nodes=[coming("n1")])


@pytest.mark.parametrize(
    ("words", "verb"),
    [
        (["get", "nr", "copy"], "export"),
        (["cat", "nr/a"], "open"),
        (["exec", "--no-summary", "nr", "--", "true"], "open_dir"),
        (["path", "nr"], "fetch"),
    ],
)
def test_who_interrupts_a_fetch_is_told_that_the_node_goes_on_and_how_to_see_and_stop_it(
    run, client, words, verb, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    client.answers[verb] = interrupted(FETCHING)
    ended = run(*words)
    assert ended.code == 130
    assert "this node goes on fetching nr" in ended.err
    assert "cached show nr" in ended.err
    assert "cached delete nr" in ended.err


def test_who_interrupts_the_copy_out_of_a_set_is_told_that_nothing_is_left(run, client):
    client.answers["export"] = interrupted(wire.Progress(state="COPYING", bytes_present=5))
    ended = run("get", "nr/part", "copy")
    assert ended.code == 130
    assert ended.err == "cached: interrupted; nothing is left in copy\n"


@pytest.mark.parametrize("report", [None, FETCHING])
@pytest.mark.parametrize("words", [["replicate", "nr", "--wait"], ["create", "nr", ".", "--wait"]])
def test_who_no_longer_waits_for_copies_is_told_once_that_they_are_made_all_the_same(
    run, client, words, report
):
    client.answers.update(create=set_view(), replicate=interrupted(report))
    ended = run(*words)
    assert ended.code == 130
    assert ended.err.count("the nodes go on making the copies") == 1
    assert "cached show nr" in ended.err
    assert "cached update nr --replicas 0" in ended.err
