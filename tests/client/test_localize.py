"""Localisation over the real sockets: what arrives where, whole or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cached import wire
from cached.client import Client, arrival
from cached.client.localize import StoppedError, localize, move, plan
from cached.client.transfers import Copy, Transfer
from cached.errors import CachedError, Forbidden, IntegrityFailed, NotFound, UnsupportedFile, UsageError
from tests.api.fake_daemon import Daemon, plant, running


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path / "node") as started:
        yield started


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with Client(daemon.runtime, timeout=120, token="ada") as opened:
        yield opened


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() or path.name.startswith(arrival.PARTIAL)
    }


def stored(daemon: Daemon) -> dict[str, bytes]:
    return {f"{bucket}/{name}": each.data for (bucket, name), each in daemon.node.cloud.objects.items()}


def test_inputs_and_outputs_of_every_kind_go_in_one_call(client, daemon, work, tmp_path):
    cloud = daemon.node.cloud
    for name in ("in/a.bam", "in/b.bam", "in/deep/c.bam", "in/readme", "ref/hg38.fa"):
        cloud.plant(f"gs://bkt/{name}", name.encode() * 3)
    (work / "out" / "logs").mkdir(parents=True)
    (work / "out" / "result").write_bytes(b"result")
    (work / "out" / "logs" / "1.log").write_bytes(b"log")
    daemon.node.put("nr", plant(tmp_path / "source"))
    outcome = localize(
        client,
        [
            Transfer("gs://bkt/in/*.bam", "bams"),
            Transfer("gs://bkt/in/", "all/"),
            Transfer("gs://bkt/ref/hg38.fa", "genome.fa"),
            Transfer("nr", "db"),
            Transfer("nr/a.txt", "one/"),
            Transfer("out", "gs://res/run7"),
            Transfer("out/**.log", "gs://res/logs/"),
            Transfer("out/result", "gs://res/final"),
        ],
    )
    assert not outcome.failed
    here = tree(work)
    assert here["bams/a.bam"] == b"in/a.bam" * 3
    assert sorted(name for name in here if name.startswith(("bams", "all"))) == [
        "all/a.bam",
        "all/b.bam",
        "all/deep/c.bam",
        "all/readme",
        "bams/a.bam",
        "bams/b.bam",
    ]
    assert here["genome.fa"] == b"ref/hg38.fa" * 3
    assert here["db/a.txt"] == here["one/a.txt"] == b"hello, world\n"
    assert os.readlink(work / "db" / "sub" / "link") == "../a.txt"
    sent = {name: data for name, data in stored(daemon).items() if name.startswith("res/")}
    assert sent == {
        "res/run7/result": b"result",
        "res/run7/logs/1.log": b"log",
        "res/logs/logs/1.log": b"log",
        "res/final": b"result",
    }
    assert not any(arrival.PARTIAL in name for name in here)
    assert outcome.tally.files_out == 4
    assert outcome.tally.facts()["hit_rate"] == 1.0
    daemon.until(lambda: not +cloud.pins)


def test_a_file_that_is_there_is_replaced_and_keeps_its_place_until_the_new_one_is_whole(
    client, daemon, work
):
    daemon.node.cloud.plant("gs://bkt/a", b"new")
    (work / "a").write_bytes(b"old and longer")
    with (work / "a").open("rb") as before:
        assert not localize(client, [Transfer("gs://bkt/a", "a")]).failed
        assert before.read() == b"old and longer"
    assert tree(work) == {"a": b"new"}


def test_what_must_not_be_kept_is_asked_for_so_and_is_read_through(client, daemon, work):
    data = bytes(range(256)) * 3000
    daemon.node.cloud.plant("gs://bkt/once", data)
    daemon.node.cloud.plant("gs://bkt/kept", data)
    daemon.node.cloud.through.add("once")
    outcome = localize(
        client,
        [Transfer("gs://bkt/once", "once", cache=False), Transfer("gs://bkt/kept", "kept")],
        scope="run7",
    )
    assert tree(work) == {"once": data, "kept": data}
    opened = {call[1]: call[2:] for call in daemon.node.cloud.calls if call[0] == "open"}
    assert opened["gs://bkt/once"] == ("run7", "none")
    assert opened["gs://bkt/kept"] == ("run7", "auto")
    assert outcome.tally.facts()["bytes_by_place"]["origin"] == len(data)
    assert outcome.tally.hit_rate == 0.5


def test_what_fails_is_told_in_full_and_the_rest_arrives(client, daemon, work):
    cloud = daemon.node.cloud
    cloud.plant("gs://bkt/good", b"good")
    cloud.plant("gs://bkt/breaks", b"x" * 500_000)
    cloud.through.add("breaks")
    cloud.breaks_after = 0
    cloud.plant("gs://bkt/d/../up", b"!")
    cloud.plant("gs://bkt/d/ok", b"ok")
    (work / "folder").mkdir()
    outcome = localize(
        client,
        [
            Transfer("gs://bkt/good", "good"),
            Transfer("gs://bkt/nothing", "nothing"),
            Transfer("gs://bkt/none/*", "none"),
            Transfer("gs://bkt/breaks", "breaks"),
            Transfer("gs://bkt/d/", "d"),
            Transfer("missing", "gs://bkt/up"),
            Transfer("*.txt", "gs://bkt/up/"),
            Transfer("unknown", "here"),
        ],
    )
    assert tree(work) == {"good": b"good", "d/ok": b"ok"}
    failed = {each.source: each.error for each in outcome.failed}
    assert len(outcome.failed) == 7
    for source in ("gs://bkt/nothing", "gs://bkt/none/*", "missing", "*.txt", "unknown"):
        assert isinstance(failed[source], NotFound), (source, failed[source])
    assert "gs://bkt/d/../up" in failed["gs://bkt/d/"].message
    assert "gs://bkt/breaks" in failed
    assert outcome.worst is not None
    assert outcome.worst.exit_code == 3


def test_the_worst_error_is_that_with_the_highest_exit_code():
    errors: list[CachedError] = [NotFound("a"), IntegrityFailed("b"), Forbidden("c")]

    class Failing:
        def put(self, source: str, *_: Any, **__: Any) -> Any:
            raise errors[int(source)]

    copies = [Copy(kind="out", source=str(number), to="gs://bkt/x") for number in range(3)]
    outcome = move(Failing(), copies)  # type: ignore[arg-type]
    assert {each.error.message for each in outcome.failed} == {"a", "b", "c"}
    assert isinstance(outcome.worst, IntegrityFailed)


def test_two_under_one_name_are_refused_before_anything_moves(client, daemon, work):
    daemon.node.cloud.plant("gs://bkt/a/x", b"1")
    daemon.node.cloud.plant("gs://bkt/b/x", b"2")
    with pytest.raises(UsageError, match="both become"):
        localize(client, [Transfer("gs://bkt/a/", "w"), Transfer("gs://bkt/b/x", "w/x")])
    assert not tree(work)
    assert not [call for call in daemon.node.cloud.calls if call[0] == "open"]


def test_a_directory_where_a_file_is_to_be_is_left_alone(client, daemon, work):
    daemon.node.cloud.plant("gs://bkt/d/a", b"1")
    (work / "w" / "a").mkdir(parents=True)
    (work / "w" / "a" / "mine").write_bytes(b"mine")
    (failed,) = localize(client, [Transfer("gs://bkt/d/*", "w")]).failed
    assert isinstance(failed.error, UsageError)
    assert tree(work) == {"w/a/mine": b"mine"}


def test_links_and_specials_among_outputs_are_not_passed_over_in_silence(client, daemon, work):
    (work / "out").mkdir()
    (work / "elsewhere").mkdir()
    (work / "elsewhere" / "secret").write_bytes(b"secret")
    (work / "out" / "file").write_bytes(b"file")
    (work / "out" / "to-file").symlink_to("file")
    (work / "out" / "to-dir").symlink_to("../elsewhere")
    (work / "out" / "to-nothing").symlink_to("nothing")
    os.mkfifo(work / "out" / "fifo")
    outcome = localize(client, [Transfer("out/", "gs://res/")])
    assert stored(daemon) == {"res/file": b"file", "res/to-file": b"file"}
    said = sorted(each.error.message for each in outcome.failed)
    assert len(said) == 3
    assert [name for name in ("fifo", "to-dir", "to-nothing") if not any(name in text for text in said)] == []


def test_a_file_with_a_star_in_its_name_is_meant_by_its_name(client, daemon, work):
    (work / "a*").write_bytes(b"star")
    (work / "ab").write_bytes(b"no")
    localize(client, [Transfer("a*", "gs://res/x")])
    assert stored(daemon) == {"res/x": b"star"}


def test_a_set_fills_a_directory_that_is_there_and_replaces_its_files(client, daemon, work, tmp_path):
    daemon.node.put("nr", plant(tmp_path / "source"))
    (work / "db" / "sub").mkdir(parents=True)
    (work / "db" / "mine").write_bytes(b"mine")
    (work / "db" / "a.txt").write_bytes(b"old")
    outcome = localize(client, [Transfer("nr", "db")])
    assert not outcome.failed
    here = tree(work)
    assert here["db/mine"] == b"mine"
    assert here["db/a.txt"] == b"hello, world\n"
    assert not any(arrival.PARTIAL in name for name in os.listdir(work))
    assert outcome.tally.places["here"] == outcome.tally.bytes_in > 0


def test_nothing_is_written_through_links_that_lie_in_the_destination(client, daemon, work, tmp_path):
    """However a link came there: what arrives stays in the directory that was named."""
    (work / "secret").mkdir()
    (work / "secret" / "authorized_keys").write_bytes(b"mine")
    (work / "in").mkdir()
    (work / "in" / "l").symlink_to("../secret")
    source = tmp_path / "source"
    (source / "l").mkdir(parents=True)
    (source / "l" / "authorized_keys").write_bytes(b"theirs")
    daemon.node.put("evil", source)
    for name in ("in/l/from-bucket", "in/l/deep/too"):
        daemon.node.cloud.plant(f"gs://bkt/{name}", b"theirs")
    for transfer in (
        Transfer("evil", "in"),
        Transfer("gs://bkt/in/", "in"),
        Transfer("gs://bkt/in/**", "in/"),
    ):
        failed = localize(client, [transfer]).failed
        assert failed
        assert all(isinstance(each.error, UsageError) for each in failed), failed
        assert all("is a link" in each.error.message for each in failed), failed
    assert tree(work) == {"secret/authorized_keys": b"mine"}
    assert [path.name for path in (work / "secret").iterdir()] == ["authorized_keys"]
    assert os.listdir(work / "in") == ["l"]


def test_a_part_of_a_set_brings_no_link_that_leads_out_of_it(client, daemon, work, tmp_path):
    source = tmp_path / "source"
    (source / "a" / "b").mkdir(parents=True)
    (source / "secret").mkdir()
    (source / "a" / "b" / "l").symlink_to("../../secret")
    daemon.node.put("evil", source)
    (failed,) = localize(client, [Transfer("evil/a/b", "in")]).failed
    assert isinstance(failed.error, UnsupportedFile)
    assert "'l'" in failed.error.message
    assert os.listdir(work) == []
    assert not localize(client, [Transfer("evil/a", "one"), Transfer("evil", "all")]).failed[1:]
    assert os.readlink(work / "all" / "a" / "b" / "l") == "../../secret"


def test_the_named_destination_may_be_a_link_itself(client, daemon, work, tmp_path):
    (tmp_path / "scratch").mkdir()
    (work / "in").symlink_to(tmp_path / "scratch")
    daemon.node.put("nr", plant(tmp_path / "source"))
    daemon.node.cloud.plant("gs://bkt/d/e/x", b"1")
    transfers = [Transfer("nr", "in"), Transfer("gs://bkt/d/", "in"), Transfer("gs://bkt/d/e/x", "in/y")]
    assert not localize(client, [*transfers, Transfer("nr/a.txt", "in/z/")]).failed
    here = tree(tmp_path / "scratch")
    assert here["e/x"] == here["y"] == b"1"
    assert here["a.txt"] == here["z/a.txt"] == b"hello, world\n"


def test_a_link_where_a_file_is_to_be_is_replaced_and_what_it_leads_to_stays(client, daemon, work):
    (work / "mine").write_bytes(b"mine")
    (work / "w").mkdir()
    (work / "w" / "a").symlink_to("../mine")
    daemon.node.cloud.plant("gs://bkt/d/a", b"1")
    assert not localize(client, [Transfer("gs://bkt/d/", "w")]).failed
    assert not (work / "w" / "a").is_symlink()
    assert tree(work) == {"mine": b"mine", "w/a": b"1"}


def test_a_set_that_has_to_be_fetched_counts_as_coming_from_peers(client, daemon, work, tmp_path):
    made = daemon.node.put("nr", plant(tmp_path / "source"))
    made.here = False
    outcome = localize(client, [Transfer("nr", "db")])
    assert outcome.tally.places["peer"] == outcome.tally.bytes_in > 0
    assert outcome.tally.hit_rate == 0


def test_planning_moves_nothing(client, daemon, work):
    daemon.node.cloud.plant("gs://bkt/in/a", b"1234")
    copies, failed = plan(client, [Transfer("gs://bkt/in/", "w"), Transfer("gs://bkt/no/", "w")])
    assert [(each.source, each.to, each.size) for each in copies] == [("gs://bkt/in/a", "w/a", 4)]
    assert len(failed) == 1
    assert not tree(work)
    assert not [call for call in daemon.node.cloud.calls if call[0] == "open"]


def test_an_interrupt_ends_everything_and_leaves_no_unfinished_files(client, daemon, work, monkeypatch):
    """The copies wait in the middle of a file; then Ctrl-C reaches the thread that waits for them."""
    for number in range(20):
        daemon.node.cloud.plant(f"gs://bkt/in/{number}", b"x" * 100_000)
    in_the_middle = threading.Semaphore(0)
    interrupted = threading.Event()

    def slowly(source: Any, goal: int, size: int) -> Iterator[int]:
        os.write(goal, b"half")
        in_the_middle.release()
        assert interrupted.wait(60)
        while True:
            yield 4

    monkeypatch.setattr(arrival, "copy_bytes", slowly)

    def watch(_: wire.Progress) -> None:
        assert in_the_middle.acquire(timeout=60)
        assert in_the_middle.acquire(timeout=60)
        assert any(arrival.PARTIAL in name for name in os.listdir(work / "w"))
        interrupted.set()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        localize(client, [Transfer("gs://bkt/in/", "w")], at_once=2, watcher=watch)
    assert tree(work) == {}
    daemon.until(lambda: not +daemon.node.cloud.pins)
    assert len([call for call in daemon.node.cloud.calls if call[0] == "open"]) < 20


def test_an_interrupt_ends_the_wait_for_the_node_too(client, daemon, work):
    daemon.node.cloud.plant("gs://bkt/a", b"x")
    daemon.hold()

    def watch(progress: wire.Progress) -> None:
        if progress.bytes_present:
            raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(localize, client, [Transfer("gs://bkt/a", "a")], watcher=watch)
        assert isinstance(job.exception(timeout=60), KeyboardInterrupt)
    assert tree(work) == {}


def test_no_more_than_so_many_move_at_once(client, daemon, work, monkeypatch):
    for number in range(30):
        daemon.node.cloud.plant(f"gs://bkt/in/{number}", b"x")
    at_work, most, lock = 0, 0, threading.Lock()
    plain = Client.open_object

    def counted(self: Client, *args: Any, **settings: Any) -> Any:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        try:
            return plain(self, *args, **settings)
        finally:
            with lock:
                at_work -= 1

    monkeypatch.setattr(Client, "open_object", counted)
    outcome = localize(client, [Transfer("gs://bkt/in/", "w")], at_once=3)
    assert len(outcome.moved) == 30
    assert most <= 3


def test_progress_adds_up_to_all_bytes(client, daemon, work):
    for number in range(5):
        daemon.node.cloud.plant(f"gs://bkt/in/{number}", b"x" * 1000)
    reports: list[wire.Progress] = []
    localize(client, [Transfer("gs://bkt/in/", "w")], watcher=reports.append)
    last = reports[-1]
    assert (last.bytes_present, last.bytes_wanted, last.files_done) == (5000, 5000, 5)


def test_stopping_is_no_error_that_a_transfer_could_report():
    assert not issubclass(StoppedError, CachedError)


@pytest.mark.parametrize(
    ("source", "found", "delimiter"),
    [
        ("in/*.bam", ["in/a.bam"], "/"),
        ("in/a*", ["in/a.bam"], "/"),
        ("in/*/c.bam", ["in/deep/c.bam"], ""),
        ("in/**.bam", ["in/a.bam", "in/deep/c.bam"], ""),
        ("in/", ["in/a.bam", "in/deep/c.bam"], ""),
    ],
)
def test_what_lies_deeper_than_a_wildcard_reaches_is_not_listed(
    client, daemon, monkeypatch, source, found, delimiter
):
    for name in ("in/a.bam", "in/deep/c.bam"):
        daemon.node.cloud.plant(f"gs://bkt/{name}", b"x")
    real, asked = client.list_objects, []

    def listed(prefix: str, delimiter: str = "") -> wire.ObjectList:
        asked.append(delimiter)
        return real(prefix, delimiter)

    monkeypatch.setattr(client, "list_objects", listed)
    copies, failed = plan(client, [Transfer(f"gs://bkt/{source}", "to/")])
    assert not failed
    assert [copy.source.removeprefix("gs://bkt/") for copy in copies] == found
    assert asked == [delimiter]
