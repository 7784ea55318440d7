from __future__ import annotations

import asyncio
import dataclasses
import os
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from cached.errors import CachedError, IntegrityFailed, NoSource, NotFound, PeerUnreachable, UsageError
from cached.replication.direct import Direct
from cached.replication.serving import STREAM, DirectServer, Served
from cached.replication.transfer import Holder, Progress
from cached.sets.coarse import SPAN, coarse
from cached.sets.leaves import split_leaves
from cached.sets.merkle import DIGEST, LEAF
from tests.replication.swarm_kit import Caller, Content, job_for, make_content, same

MIXED = {
    "a/deep/er/big": 5_000_000,
    "exact": 32_768,
    "empty": 0,
    "ünï/çødé": 70_001,
    **{f"many/{index:03d}": index * 37 for index in range(300)},
}


@dataclass
class Pipe:
    """Streams that go straight to the servers of a test, and break where it says."""

    servers: dict[str, DirectServer]
    cut_after: dict[str, int] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    queries: list[tuple[str, Any]] = field(default_factory=list)

    async def fetch(self, node_id: str, stream: str, query: dict[str, Any]) -> AsyncIterator[bytes]:
        assert stream == STREAM
        self.queries.append((node_id, query))
        if node_id not in self.servers:
            raise PeerUnreachable(f"{node_id} does not answer")
        if node_id in self.silent:
            await asyncio.sleep(3600)
        queue: asyncio.Queue[bytes | CachedError | None] = asyncio.Queue(2)
        task = asyncio.create_task(self._serve(node_id, query, queue))
        left = self.cut_after.pop(node_id, 10**12)
        try:
            while (item := await queue.get()) is not None:
                if isinstance(item, CachedError):
                    raise item
                yield item
                left -= len(item)
                if left < 0:
                    raise PeerUnreachable(f"{node_id} has gone")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _serve(self, node_id: str, query: dict[str, Any], queue: asyncio.Queue) -> None:
        class Sender:
            async def write(self, data: bytes) -> None:
                for at in range(0, len(data), 100_003):
                    await queue.put(data[at : at + 100_003])

        try:
            await self.servers[node_id].serve(Caller("receiver"), query, Sender())
            await queue.put(None)
        except CachedError as error:
            await queue.put(error)


def server(content: Content, data=None, **more) -> DirectServer:
    async def lookup(wanted: str) -> Served | None:
        if wanted != content.id:
            return None
        where = data or content.data
        return Served(manifest=content.manifest, open_dir=lambda: os.open(where, os.O_RDONLY))

    return DirectServer(lookup=lookup, **more)


@pytest.mark.parametrize("coming", [False, True])
def test_few_bytes_that_several_want_are_read_once_unless_they_are_still_to_come_and_for_nobody_else(
    tmp_path, coming
):
    content, opened = make_content(tmp_path / "src", {"f": 100_000}), []

    def open_dir() -> int:
        opened.append(1)
        return os.open(content.data, os.O_RDONLY)

    async def lookup(_: str) -> Served:
        return Served(manifest=content.manifest, open_dir=open_dir, coming=coming)

    serving = DirectServer(lookup=lookup, allowed=lambda peer, _: peer != "stranger")
    sent: list[bytes] = []

    class Sender:
        async def write(self, data: bytes) -> None:
            sent.append(data)

    async def story() -> None:
        query = {"content": content.id, "ranges": [[0, 7]]}
        await asyncio.gather(*(serving.serve(Caller(name), query, Sender()) for name in "abc"))
        with pytest.raises(NotFound):
            await serving.serve(Caller("stranger"), query, Sender())

    asyncio.run(story())
    assert sent == [(content.data / "f").read_bytes()] * 3
    assert len(opened) == (3 if coming else 1)


def holders(*names: str):
    return lambda: [Holder(node_id=name, host="", bittorrent_port=0, complete=True) for name in names]


def test_a_stream_brings_all_files_large_small_and_empty(tmp_path):
    content = make_content(tmp_path / "src", MIXED)
    pipe = Pipe({"one": server(content)})
    job = job_for(content, tmp_path / "dst", 0)
    asyncio.run(Direct(fetch_stream=pipe.fetch).fetch(job, holders("one")))
    assert same(content, job.data)
    assert job.progress.bytes_present == job.progress.bytes_wanted == sum(MIXED.values())
    assert job.progress.by_source == {"one": sum(MIXED.values())}


def test_a_fetch_goes_on_where_the_last_one_ended_and_repairs_what_is_wrong(tmp_path):
    content = make_content(tmp_path / "src", MIXED)
    one = server(content)
    job = job_for(content, tmp_path / "dst", 0)
    big = (content.data / "a/deep/er/big").read_bytes()
    (job.data / "a/deep/er/big").write_bytes(big[:3_000_000] + b"rot" + big[3_000_003:4_000_000])
    (job.data / "exact").write_bytes((content.data / "exact").read_bytes() + b"too long")
    asyncio.run(Direct(fetch_stream=Pipe({"one": one}).fetch).fetch(job, holders("one")))
    assert same(content, job.data)
    assert one.sent[content.id] < sum(MIXED.values()) - 3_900_000


@pytest.mark.parametrize("found", [b"", b"wrong" * 8, bytes(40_000), bytes(200_000)])
def test_a_finished_file_that_is_wrong_comes_anew_and_is_not_written_to(tmp_path, found):
    content = make_content(tmp_path / "src", MIXED)
    job = job_for(content, tmp_path / "dst", 0)
    wrong = job.data / "ünï/çødé"
    wrong.write_bytes(found)
    wrong.chmod(0o444)
    os.link(wrong, tmp_path / "theirs")
    asyncio.run(Direct(fetch_stream=Pipe({"one": server(content)}).fetch).fetch(job, holders("one")))
    assert same(content, job.data)
    assert (tmp_path / "theirs").read_bytes() == found


def test_files_that_came_whole_have_their_final_mode(tmp_path):
    content = make_content(tmp_path / "src", MIXED)
    job = job_for(content, tmp_path / "dst", 0)
    asyncio.run(Direct(fetch_stream=Pipe({"one": server(content)}).fetch).fetch(job, holders("one")))
    assert {(job.data / f"many/{index:03d}").stat().st_mode & 0o777 for index in range(1, 300)} == {0o444}


def test_files_that_came_whole_have_their_time_and_are_told_of_as_made(tmp_path):
    content = make_content(tmp_path / "src", MIXED)
    times = {path: 1_500_000_000_000_000_000 + number for number, path in enumerate(MIXED)}
    del times["many/007"]
    job = dataclasses.replace(job_for(content, tmp_path / "dst", 0), times=times)
    (job.data / "many/008").write_bytes((content.data / "many/008").read_bytes())
    asyncio.run(Direct(fetch_stream=Pipe({"one": server(content)}).fetch).fetch(job, holders("one")))
    assert same(content, job.data)
    small = {f"many/{index:03d}" for index in range(1, 300)} | {"exact", "ünï/çødé"}
    assert small - {"many/007", "many/008"} <= job.made <= set(times) - {"empty", "many/008"}
    assert {(job.data / path).stat().st_mtime_ns - times[path] for path in job.made} == {0}


def test_a_query_for_leaves_that_there_are_not_is_refused_before_a_byte_is_sent(tmp_path):
    content = make_content(tmp_path / "src", MIXED)
    sent = []

    class Sender:
        async def write(self, data: bytes) -> None:
            sent.append(data)

    query = {"content": content.id, "ranges": [[0, 1], [5, 10**6]]}
    with pytest.raises(UsageError, match="no leaves 5 to 1000000"):
        asyncio.run(server(content).serve(Caller("receiver"), query, Sender()))
    assert not sent


def test_a_fetch_of_some_files_alone_asks_for_no_others(tmp_path):
    content = make_content(tmp_path / "src", MIXED)
    one = server(content)
    job = dataclasses.replace(job_for(content, tmp_path / "dst", 0), only=frozenset({"exact"}))
    asyncio.run(Direct(fetch_stream=Pipe({"one": one}).fetch).fetch(job, holders("one")))
    assert (job.data / "exact").read_bytes() == (content.data / "exact").read_bytes()
    assert not (job.data / "a/deep/er/big").exists()
    assert one.sent[content.id] == job.progress.bytes_present == job.progress.bytes_wanted == MIXED["exact"]


def test_bytes_that_a_job_begins_to_wait_for_are_asked_for_anew_to_go_before_others(tmp_path):
    content = make_content(tmp_path / "src", {"f": 9_000_000})
    pipe, waiting = Pipe({"one": server(content)}), asyncio.Event()
    job = dataclasses.replace(job_for(content, tmp_path / "dst", 0), first=waiting.is_set)

    async def run() -> None:
        fetching = asyncio.create_task(Direct(fetch_stream=pipe.fetch).fetch(job, holders("one")))
        while not job.progress.bytes_present:
            await asyncio.sleep(0)
        waiting.set()
        await fetching

    asyncio.run(run())
    assert same(content, job.data)
    assert [query.get("first") for _, query in pipe.queries] == [None, True]
    assert pipe.queries[1][1]["ranges"][0][0] > 0


def test_where_there_is_another_way_little_patience_is_had_with_holders_that_send_nothing(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("cached.replication.transfer.IMPATIENT", 0.05)
    content = make_content(tmp_path / "src", {"f": 100_000})
    job = dataclasses.replace(job_for(content, tmp_path / "dst", 0), elsewhere=lambda: True)
    direct = Direct(fetch_stream=Pipe({}).fetch, patience=3600.0)
    with pytest.raises(NoSource, match="does not answer"):
        asyncio.run(asyncio.wait_for(direct.fetch(job, holders("gone")), 60))


def test_another_holder_takes_over_when_one_breaks_off(tmp_path):
    content = make_content(tmp_path / "src", MIXED)
    one, two = server(content), server(content)
    pipe = Pipe({"one": one, "two": two}, cut_after={"one": 4_500_000})
    job = job_for(content, tmp_path / "dst", 0)
    asyncio.run(Direct(fetch_stream=pipe.fetch).fetch(job, holders("one", "two"), prefer="one"))
    assert same(content, job.data)
    assert job.progress.by_source["one"] > 0
    assert job.progress.by_source["two"] > 0
    assert two.sent[content.id] < sum(MIXED.values())


def test_a_silent_holder_is_left_for_another(tmp_path, monkeypatch):
    monkeypatch.setattr("cached.replication.direct.STALL", 0.05)
    content = make_content(tmp_path / "src", {"f": 100_000})
    pipe = Pipe({"one": server(content), "two": server(content)}, silent={"one"})
    job = job_for(content, tmp_path / "dst", 0)
    asyncio.run(Direct(fetch_stream=pipe.fetch).fetch(job, holders("one", "two"), prefer="one"))
    assert same(content, job.data)
    assert [node for node, _ in pipe.queries] == ["one", "two"]


def test_wrong_bytes_are_not_kept_and_their_sender_is_named(tmp_path):
    content = make_content(tmp_path / "src", {"f": 3_000_000})
    rotten = make_content(tmp_path / "rot", {"f": 3_000_000}, seed=2)
    pipe = Pipe({"bad": server(content, rotten.data), "good": server(content)})
    told = []
    job = job_for(content, tmp_path / "dst", 0)
    direct = Direct(fetch_stream=pipe.fetch, corrupt=lambda *what: told.append(what))
    asyncio.run(direct.fetch(job, holders("bad", "good"), prefer="bad"))
    assert same(content, job.data)
    assert told == [("bad", content.id, "f")]
    assert "bad" not in job.progress.by_source


def test_when_all_holders_are_rotten_the_fetch_says_so(tmp_path):
    content = make_content(tmp_path / "src", {"f": 100_000})
    rotten = make_content(tmp_path / "rot", {"f": 100_000}, seed=2)
    job = job_for(content, tmp_path / "dst", 0)
    direct = Direct(fetch_stream=Pipe({"bad": server(content, rotten.data)}).fetch)
    with pytest.raises(IntegrityFailed, match="no holder has the right bytes"):
        asyncio.run(direct.fetch(job, holders("bad")))


def test_without_any_holder_the_fetch_ends(tmp_path):
    content = make_content(tmp_path / "src", {"f": 100_000})
    job = job_for(content, tmp_path / "dst", 0)
    direct = Direct(fetch_stream=Pipe({}).fetch, patience=0.1)
    with pytest.raises(NoSource, match="gone does not answer"):
        asyncio.run(direct.fetch(job, holders("gone")))
    assert "gone does not answer" in job.progress.reason


def test_leaves_that_do_not_belong_to_the_manifest_are_refused(tmp_path):
    content = make_content(tmp_path / "src", {"f": 100_000})
    content.leaves = bytes(32) + content.leaves[32:]
    job = job_for(content, tmp_path / "dst", 0)
    with pytest.raises(IntegrityFailed):
        asyncio.run(Direct(fetch_stream=Pipe({}).fetch).fetch(job, holders("one")))


def test_leaves_that_were_shown_to_belong_to_the_manifest_are_not_looked_at_again(tmp_path, monkeypatch):
    content = make_content(tmp_path / "src", {"f": 100_000})
    looked = []
    monkeypatch.setattr("cached.replication.direct.check", lambda *_: looked.append(1))
    for number, proven in enumerate((True, False)):
        job = dataclasses.replace(job_for(content, tmp_path / str(number), 0), proven=proven)
        direct = Direct(fetch_stream=Pipe({"one": server(content)}).fetch)
        asyncio.run(direct.fetch(job, holders("one")))
        assert looked == ([] if proven else [1])


def test_a_stranger_learns_nothing(tmp_path):
    content = make_content(tmp_path / "src", {"f": 100_000})
    careful = server(content, allowed=lambda peer, _content: peer == "friend")

    class Nowhere:
        async def write(self, data: bytes) -> None:
            raise AssertionError

    async def ask(peer: str, wanted: str, ranges) -> None:
        await careful.serve(Caller(peer), {"content": wanted, "ranges": ranges}, Nowhere())

    with pytest.raises(NotFound) as refused:
        asyncio.run(ask("stranger", content.id, [[0, 1]]))
    with pytest.raises(NotFound) as absent:
        asyncio.run(ask("friend", "0" * 64, [[0, 1]]))
    assert refused.value.to_wire() == absent.value.to_wire()
    with pytest.raises(UsageError):
        asyncio.run(ask("friend", content.id, [[0, 10**9]]))
    with pytest.raises(UsageError):
        asyncio.run(ask("friend", content.id, "nonsense"))


def test_both_ends_count_the_payload_bytes_of_each_content(tmp_path):
    content = make_content(tmp_path / "src", MIXED)
    one = server(content)
    direct = Direct(fetch_stream=Pipe({"one": one}).fetch)
    asyncio.run(direct.fetch(job_for(content, tmp_path / "dst", 0), holders("one")))
    assert direct.received == one.sent == {content.id: sum(MIXED.values())}


class Stored:
    """A bulk stream with all its bytes there already, as far as it goes."""

    def __init__(self, data: bytes, stalls: bool = False) -> None:
        self._left = memoryview(data)
        self._stalls = stalls
        self.closed = False
        self._stopped = threading.Event()

    def read_into(self, buffer: memoryview) -> int:
        part, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(part)] = part
        if self._stalls and not part:
            assert self._stopped.wait(120)
        return len(part)

    def stop(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        self.closed = True


class Bulk:
    """Opens streams for bulk of the holders that a pipe has; `limits` says how many bytes of each come."""

    def __init__(self, pipe: Pipe, limits: dict[str, int] | None = None, stalls: bool = False) -> None:
        self._pipe = pipe
        self._limits = limits or {}
        self._stalls = stalls
        self.opened: list[tuple[str, Stored]] = []

    async def open(self, node_id: str, stream: str, query: dict[str, Any], stall: float, size: int) -> Stored:
        parts = [part async for part in self._pipe.fetch(node_id, stream, query)]
        made = Stored(b"".join(parts)[: self._limits.pop(node_id, None)], self._stalls)
        self.opened.append((node_id, made))
        return made


def bulk_holders(*names: str):
    return lambda: [dataclasses.replace(one, bulk=True) for one in holders(*names)()]


def test_many_bytes_come_over_a_connection_of_their_own_and_few_do_not(tmp_path):
    content = make_content(tmp_path / "src", MIXED | {"second": 200_000})
    pipe = Pipe({"one": server(content)})
    bulk = Bulk(pipe)
    job = job_for(content, tmp_path / "dst", 0)
    direct = Direct(fetch_stream=pipe.fetch, open_bulk=bulk.open)
    asyncio.run(direct.fetch(job, bulk_holders("one")))
    assert same(content, job.data)
    assert job.progress.bytes_present == job.progress.bytes_wanted == content.manifest.total_bytes
    assert [(node, stream.closed) for node, stream in bulk.opened] == [("one", True)]
    (job.data / "second").unlink()
    asyncio.run(direct.fetch(dataclasses.replace(job, progress=Progress()), bulk_holders("one")))
    assert same(content, job.data)
    assert len(bulk.opened) == 1


def test_what_a_broken_bulk_stream_brought_is_kept_and_another_holder_gives_the_rest(tmp_path):
    content = make_content(tmp_path / "src", {"f": 9_000_000, "g": 100_000})
    pipe = Pipe({"one": server(content), "two": server(content)})
    bulk = Bulk(pipe, {"one": 3_333_333})
    job = job_for(content, tmp_path / "dst", 0)
    direct = Direct(fetch_stream=pipe.fetch, open_bulk=bulk.open)
    asyncio.run(direct.fetch(job, bulk_holders("one", "two"), prefer="one"))
    assert same(content, job.data)
    assert [(node, stream.closed) for node, stream in bulk.opened] == [("one", True), ("two", True)]
    assert job.progress.by_source["one"] == 3_333_333 // 16_384 * 16_384
    assert sum(job.progress.by_source.values()) == 9_100_000


def test_a_bulk_stream_of_wrong_bytes_is_told_of_and_not_asked_again(tmp_path):
    content = make_content(tmp_path / "src", {"f": 9_000_000})
    rotten = make_content(tmp_path / "rotten", {"f": 9_000_000})
    with (rotten.data / "f").open("r+b") as file:
        file.seek(5_000_000)
        file.write(b"rot")
    pipe = Pipe({"bad": server(content, rotten.data), "good": server(content)})
    bulk, told = Bulk(pipe), []
    job = job_for(content, tmp_path / "dst", 0)
    direct = Direct(fetch_stream=pipe.fetch, open_bulk=bulk.open, corrupt=lambda *what: told.append(what))
    asyncio.run(direct.fetch(job, bulk_holders("bad", "good"), prefer="bad"))
    assert same(content, job.data)
    assert told == [("bad", content.id, "f")]
    assert job.progress.hash_failures == 1


def test_where_no_bulk_stream_can_be_opened_the_bytes_come_the_other_way(tmp_path):
    content = make_content(tmp_path / "src", {"f": 9_000_000})
    pipe = Pipe({"one": server(content)})
    tries = []

    async def refuse(node_id, stream, query, stall, size):
        tries.append(node_id)
        raise PeerUnreachable("a firewall is in between")

    job = job_for(content, tmp_path / "dst", 0)
    direct = Direct(fetch_stream=pipe.fetch, open_bulk=refuse)
    asyncio.run(direct.fetch(job, bulk_holders("one")))
    assert same(content, job.data)
    assert tries == ["one"]


def test_a_cancelled_fetch_leaves_no_thread_that_writes(tmp_path):
    content = make_content(tmp_path / "src", {"f": 9_000_000})
    pipe = Pipe({"one": server(content)})
    bulk = Bulk(pipe, {"one": 5_000_000}, stalls=True)
    job = job_for(content, tmp_path / "dst", 0)

    async def run() -> None:
        direct = Direct(fetch_stream=pipe.fetch, open_bulk=bulk.open)
        fetch = asyncio.create_task(direct.fetch(job, bulk_holders("one")))
        async with asyncio.timeout(120):
            while job.progress.bytes_present < 4_000_000:
                await asyncio.sleep(0.01)
        fetch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetch
        assert [stream.closed for _, stream in bulk.opened] == [True]

    asyncio.run(run())


def coarsely(content: Content, data, **changes):
    return dataclasses.replace(
        job_for(content, data, 0), digests=coarse(content.manifest, content.leaves), **changes
    )


def test_coarse_digests_suffice_and_the_leaves_of_all_that_is_right_are_told(tmp_path):
    content = make_content(tmp_path / "src", MIXED)
    pipe, told = Pipe({"one": server(content)}), {}

    def proved(path: str, start: int, leaves: bytes) -> None:
        for number in range(0, len(leaves), DIGEST):
            told[path, start // LEAF + number // DIGEST] = leaves[number : number + DIGEST]

    job = coarsely(content, tmp_path / "dst", proved=proved)
    asyncio.run(Direct(fetch_stream=pipe.fetch).fetch(job, holders("one")))
    assert same(content, job.data)
    wanted = {
        (entry.path, number // DIGEST): bytes(part[number : number + DIGEST])
        for entry, part in split_leaves(content.manifest, content.leaves)
        for number in range(0, len(part), DIGEST)
    }
    assert told == wanted


def test_with_coarse_digests_too_what_is_right_is_kept_and_only_the_rest_is_asked_for(tmp_path):
    content = make_content(tmp_path / "src", {"big": 5_000_000, "small": 40_000, "tiny": 9})
    pipe = Pipe({"one": server(content)})
    job = coarsely(content, tmp_path / "dst")
    data = (content.data / "big").read_bytes()
    (job.data / "big").write_bytes(data[:2_000_000] + b"?" + data[2_000_001:4_000_000])
    (job.data / "small").write_bytes(bytes(40_000))
    direct = Direct(fetch_stream=pipe.fetch)
    asyncio.run(direct.fetch(job, holders("one")))
    assert same(content, job.data)
    spans = [range(2_000_000 // SPAN * SPAN, (2_000_000 // SPAN + 1) * SPAN), range(61 * SPAN, 5_000_000)]
    assert direct.received[content.id] == sum(map(len, spans)) + 40_000 + 9


def test_wrong_bytes_are_told_by_coarse_digests_and_brought_from_another(tmp_path):
    content = make_content(tmp_path / "src", MIXED)
    rotten = make_content(tmp_path / "rotten", MIXED)
    for path in ("a/deep/er/big", "ünï/çødé"):
        wrong = (content.data / path).read_bytes()
        (rotten.data / path).write_bytes(wrong[:-3] + b"???")
    corrupt = []
    pipe = Pipe({"bad": server(content, rotten.data), "good": server(content)})
    job = coarsely(content, tmp_path / "dst")
    direct = Direct(fetch_stream=pipe.fetch, corrupt=lambda *found: corrupt.append(found))
    asyncio.run(direct.fetch(job, holders("bad", "good"), "bad"))
    assert same(content, job.data)
    assert [found[0] for found in corrupt] == ["bad"]
