from __future__ import annotations

import asyncio
import dataclasses
import os

import pytest
from cached.errors import Busy, CachedError, IntegrityFailed, NoSource, NotFound
from cached.replication.membership import Seedable, agreement, is_piece_size
from cached.replication.transfer import FetchJob, TlsMaterial
from cached.sets.coarse import coarse
from cached.storage.disk import Store
from cached.storage.leafmaker import LeafMaker
from tests.replication.swarm_kit import PIECE, Caller, Content, Net, job_for, make_content, same, seeding
from tests.replication.tls_kit import Authority

MIXED = {
    "a/deep/er/big": 3_000_000,
    "exact": 2 * PIECE,
    "empty": 0,
    "ünï çødé/\u202edlrow": 170_001,
    "n" * 250: 100_000,
    **{f"many/{index:03d}": index * 37 for index in range(300)},
}


async def until(condition) -> None:
    while not condition():
        await asyncio.sleep(0.01)


async def fetch_and_keep(net: Net, root, content: Content, name: str) -> FetchJob:
    """Fetch into staging, rename as storage does, and go on as a seed."""
    job = job_for(content, root / name / "staging", PIECE)
    await net.swarms[name].fetch(job, net.holders, "source")
    final = root / name / "final"
    job.data.rename(final)
    await net.swarms[name].seed(content.id, content.manifest, content.leaves, final, PIECE)
    net.complete.add(name)
    return dataclasses.replace(job, data=final)


@pytest.mark.parametrize("encrypted", [True, False], ids=["tls", "plain"])
def test_one_source_and_three_receivers_all_get_everything(tmp_path, encrypted):
    async def run() -> None:
        authority = Authority()

        def tls() -> TlsMaterial | None:
            return authority.issue() if encrypted else None

        net, content = Net(), make_content(tmp_path / "src", MIXED)
        source = await seeding(net, tmp_path, content, tls=tls())
        names = ["one", "two", "three"]
        for name in names:
            await net.add(tmp_path, name, tls=tls())
        jobs = await asyncio.gather(*(fetch_and_keep(net, tmp_path, content, name) for name in names))
        total = sum(MIXED.values())
        for job in jobs:
            assert same(content, job.data)
            assert job.progress.bytes_present == job.progress.bytes_wanted == total
            assert job.progress.state == "done"
        moved = await source.stats(content.id)
        assert total <= moved.uploaded < 3 * total
        received = [await net.swarms[name].stats(content.id) for name in names]
        assert all(traffic.downloaded - traffic.redundant >= total for traffic in received)
        await net.close()

    asyncio.run(run())


def test_files_with_the_same_bytes_travel_once_and_arrive_everywhere(tmp_path):
    async def run() -> None:
        twin = os.urandom(2_050_085)
        files = {
            **{f"copy/{number}": twin for number in range(11)},
            "other": 1_000_000,
            "small": 300,
            "little": b"x",
        }
        net, content = Net(), make_content(tmp_path / "src", files)
        source = await seeding(net, tmp_path, content)
        for name in ("one", "two"):
            await net.add(tmp_path, name)
        jobs = await asyncio.gather(
            *(fetch_and_keep(net, tmp_path, content, name) for name in ("one", "two"))
        )
        for job in jobs:
            assert same(content, job.data)
            assert job.progress.bytes_present == job.progress.bytes_wanted == 11 * len(twin) + 1_000_301
        for name in ("one", "two"):
            assert (await net.swarms[name].stats(content.id)).downloaded < 2 * len(twin)
        assert (await source.stats(content.id)).uploaded >= len(twin) + 1_000_301
        await net.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    "files", [{"only": 1_000_001}, {"d/tiny": 5}, {"e1": 0, "d/e2": 0}, {"a": 100_000, "b/c/d": 1}]
)
def test_small_sets_arrive_too(tmp_path, files):
    async def run() -> None:
        net, content = Net(), make_content(tmp_path / "src", files)
        await seeding(net, tmp_path, content)
        await net.add(tmp_path, "one")
        job = await fetch_and_keep(net, tmp_path, content, "one")
        assert same(content, job.data)
        assert sorted(os.listdir(job.data)) == sorted(os.listdir(content.data))
        await net.close()

    asyncio.run(run())


def test_a_receiver_serves_others_from_where_storage_moved_its_files(tmp_path):
    async def run() -> None:
        net, content = Net(), make_content(tmp_path / "src", MIXED)
        source = await seeding(net, tmp_path, content)
        await net.add(tmp_path, "one")
        await fetch_and_keep(net, tmp_path, content, "one")
        await source.unseed(content.id)
        net.complete.discard("source")
        net.gone.add("source")
        await source.close()
        await net.add(tmp_path, "two")
        job = await fetch_and_keep(net, tmp_path, content, "two")
        assert same(content, job.data)
        assert job.progress.by_source.keys() <= {"one"}, "it may be over before anybody looks"
        assert (await net.swarms["one"].stats(content.id)).uploaded > 0
        await net.close()

    asyncio.run(run())


def test_when_the_source_dies_the_others_finish_from_each_other_and_another_holder(tmp_path):
    async def run() -> None:
        net, content = Net(), make_content(tmp_path / "src", {"a": 4_000_000, "b": 2_000_000})
        source = await seeding(net, tmp_path, content)
        source.throttle.limit(400_000, None)
        for name in ("one", "two", "three"):
            await net.add(tmp_path, name)
        jobs = {name: job_for(content, tmp_path / name, PIECE) for name in ("one", "two", "three")}
        fetches = [
            asyncio.create_task(net.swarms[name].fetch(job, net.holders, "source"))
            for name, job in jobs.items()
        ]
        await until(lambda: sum(job.progress.bytes_present for job in jobs.values()) > 300_000)
        net.gone.add("source")
        net.complete.discard("source")
        await source.close()
        await seeding(net, tmp_path, content, "spare")
        await asyncio.gather(*fetches)
        for job in jobs.values():
            assert same(content, job.data)
        await net.close()

    asyncio.run(run())


def test_a_fetch_goes_on_with_what_is_on_disk(tmp_path):
    async def run() -> None:
        net, content = Net(), make_content(tmp_path / "src", {"a/b": 3_000_000, "c": 500_000})
        source = await seeding(net, tmp_path, content)
        source.throttle.limit(1_000_000, None)
        swarm = await net.add(tmp_path, "one")
        job = job_for(content, tmp_path / "dst", PIECE)
        task = asyncio.create_task(swarm.fetch(job, net.holders, "source"))
        await until(lambda: job.progress.bytes_present > 1_000_000)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        before = (await swarm.stats(content.id)).downloaded
        assert before >= 1_000_000
        source.throttle.limit(None, None)
        with (job.data / "c").open("ab") as file:
            file.truncate(600_000)
        again = job_for(content, job.data, PIECE)
        await swarm.fetch(again, net.holders, "source")
        assert same(content, job.data)
        assert sum(again.progress.by_source.values()) <= 2_500_000
        await net.close()

    asyncio.run(run())


def test_a_stranger_without_our_certificate_gets_nothing(tmp_path):
    async def run() -> None:
        net, content = Net(), make_content(tmp_path / "src", {"a": 200_000})
        source = await seeding(net, tmp_path, content, tls=Authority().issue())
        await net.add(tmp_path, "rogue", tls=Authority().issue(), patience=0.8)
        await net.add(tmp_path, "plain", patience=0.8)
        for name in ("rogue", "plain"):
            job = job_for(content, tmp_path / name / "dst", PIECE)
            with pytest.raises(NoSource):
                await net.swarms[name].fetch(job, net.holders, "source")
            assert job.progress.bytes_present == 0
        assert (await source.stats(content.id)).uploaded == 0
        await net.close()

    asyncio.run(run())


def test_who_is_not_allowed_hears_what_he_would_hear_of_nothing(tmp_path):
    async def run() -> None:
        net, content = Net(), make_content(tmp_path / "src", {"a": 200_000})
        source = await seeding(net, tmp_path, content, allowed=lambda peer, _content: peer == "friend")
        answers = []
        for wanted in (content.id, "0" * 64):
            for handler in source.rpc_handlers().values():
                with pytest.raises(NotFound) as refusal:
                    await handler(Caller("stranger"), {"content": wanted})
                answers.append(refusal.value.to_wire())
        assert answers.count(answers[0]) == 4
        assert (await source.rpc_handlers()["swarm.join"](Caller("friend"), {"content": content.id}))[
            "info_hash"
        ] == source.parameters(content.id)["info_hash"]
        await net.close()

    asyncio.run(run())


def test_a_holder_joins_the_swarm_when_it_is_asked(tmp_path):
    async def run() -> None:
        net, content = Net(), make_content(tmp_path / "src", MIXED)

        async def lookup(wanted: str, piece_size: int) -> Seedable | None:
            if wanted != content.id:
                return None
            return Seedable(
                manifest=content.manifest,
                digests=coarse(content.manifest, content.leaves),
                data=content.data,
                piece_size=piece_size or 4 * PIECE,
            )

        source = await net.add(tmp_path, "source", lookup=lookup)
        net.complete.add("source")
        await net.add(tmp_path, "one")
        assert source.parameters(content.id) is None
        job = await fetch_and_keep(net, tmp_path, content, "one")
        assert same(content, job.data)
        assert source.parameters(content.id)["piece_size"] == PIECE
        await net.close()

    asyncio.run(run())


def test_a_holder_that_nobody_can_dial_dials_the_receiver(tmp_path):
    async def run() -> None:
        net, content = Net(), make_content(tmp_path / "src", {"a": 400_000})
        await seeding(net, tmp_path, content, reachable=lambda: False)
        swarm = await net.add(tmp_path, "one")
        job = job_for(content, tmp_path / "dst", PIECE)

        def holders():
            return [
                dataclasses.replace(holder, reachable=False, bittorrent_port=0)
                for holder in net.holders()
                if holder.node_id == "source"
            ]

        await swarm.fetch(job, holders, "source")
        assert same(content, job.data)
        await net.close()

    asyncio.run(run())


def test_a_seed_with_rotten_bytes_is_found_out_and_never_written_to(tmp_path):
    async def run() -> None:
        net, content = Net(), make_content(tmp_path / "src", {"a": 400_000})
        good = content.data / "a"
        rotten = tmp_path / "rotten"
        rotten.mkdir()
        bytes_there = bytearray(good.read_bytes())
        bytes_there[200_000] ^= 1
        (rotten / "a").write_bytes(bytes_there)
        told = []
        source = await net.add(tmp_path, "source", damaged=lambda *what: told.append(what))
        await source.seed(content.id, content.manifest, content.leaves, rotten, PIECE)
        net.complete.add("source")
        await net.add(tmp_path, "one")
        job = job_for(content, tmp_path / "one" / "dst", PIECE)
        fetch = asyncio.create_task(net.swarms["one"].fetch(job, net.holders, "source"))
        await until(lambda: told or fetch.done())
        net.complete.discard("source")
        await seeding(net, tmp_path, content, "spare")
        await fetch
        assert same(content, job.data)
        assert (rotten / "a").read_bytes() == bytes(bytes_there)
        assert [content_id for content_id, _ in told] == [content.id]
        assert source.parameters(content.id) is None
        await net.close()

    asyncio.run(run())


def test_a_poisoned_pack_is_found_when_it_is_taken_apart(tmp_path):
    async def run() -> None:
        net, content = Net(), make_content(tmp_path / "src", {"a": 1000, "b": 2000})
        source = await seeding(net, tmp_path, content)
        poisoned = make_content(tmp_path / "other", {"a": 1000, "b": 2000}, seed=2)
        other = await net.add(tmp_path, "other")
        await other.seed(content.id, poisoned.manifest, poisoned.leaves, poisoned.data, PIECE)
        net.complete |= {"other"}
        await source.unseed(content.id)
        net.gone.add("source")
        swarm = await net.add(tmp_path, "one")
        job = job_for(content, tmp_path / "one" / "dst", PIECE)
        with pytest.raises(IntegrityFailed):
            await swarm.fetch(job, net.holders, "other")
        net.gone.discard("source")
        await net.close()

    asyncio.run(run())


def test_seeding_twice_changes_nothing_and_a_fetch_of_what_is_there_is_refused(tmp_path):
    async def run() -> None:
        net, content = Net(), make_content(tmp_path / "src", MIXED)
        source = await seeding(net, tmp_path, content)
        first = source.parameters(content.id)
        again = await source.seed(content.id, content.manifest, content.leaves, content.data, 16 * PIECE)
        assert first == again
        with pytest.raises(Busy):
            await source.fetch(job_for(content, tmp_path / "dst", PIECE), net.holders, "source")
        scratch = tmp_path / "source" / "scratch"
        assert [path.name for path in scratch.iterdir()] == [f"{content.id}.pack"]
        await source.unseed(content.id)
        assert not list(scratch.iterdir())
        assert source.parameters(content.id) is None
        await net.close()

    asyncio.run(run())


def test_a_port_that_is_taken_is_an_error_at_the_start(tmp_path):
    async def run() -> None:
        net = Net()
        await net.add(tmp_path, "one")
        taken = f"{net.hosts['one']}:{net.ports['one']}"
        from cached.replication.bittorrent import Swarm

        other = Swarm(node_id="two", listen=taken, scratch=tmp_path / "two", call=None)
        with pytest.raises(CachedError, match="cannot listen"):
            await other.start()
        await net.close()

    asyncio.run(run())


def test_a_fetch_that_is_held_gets_its_trickle_and_all_of_it_once_released(tmp_path):
    async def run() -> None:
        net, content = Net(), make_content(tmp_path / "src", {"a": 6_000_000})
        await seeding(net, tmp_path, content)
        one = await net.add(tmp_path, "one")
        job = job_for(content, tmp_path / "dst", PIECE)
        fetching = asyncio.create_task(one.fetch(job, net.holders, "source"))
        begun = asyncio.get_running_loop().time()
        while content.id not in one._session.torrents:
            await asyncio.sleep(0)
        while one._session.torrents[content.id].handle is None:
            await asyncio.sleep(0)
        one.throttle.hold({content.id}, 500_000)
        await until(lambda: job.progress.bytes_present > 1_000_000)
        assert asyncio.get_running_loop().time() - begun > 1.0
        assert not fetching.done()
        one.throttle.hold(set(), 500_000)
        await fetching
        assert (await one.throttle.moved())[1] >= 6_000_000
        await net.close()

    asyncio.run(run())


def test_a_plain_swarm_turns_to_encryption_and_a_fetch_under_way_goes_on_after_another_try(tmp_path):
    async def run() -> None:
        authority = Authority()
        net, content = Net(), make_content(tmp_path / "src", {"a": 3_000_000})
        source = await net.add(tmp_path, "source", tls=authority.issue(), encrypted=False)
        source.throttle.limit(1_000_000, None)
        await source.seed(content.id, content.manifest, content.leaves, content.data, PIECE)
        net.complete.add("source")
        one = await net.add(tmp_path, "one", tls=authority.issue(), encrypted=False)
        job = job_for(content, tmp_path / "dst", PIECE)
        fetching = asyncio.create_task(one.fetch(job, net.holders, "source"))
        while not job.progress.bytes_present:
            await asyncio.sleep(0.02)
        ports = dict(net.ports)
        await asyncio.gather(source.encrypt(), one.encrypt())
        with pytest.raises(NoSource, match="encrypted"):
            await fetching
        assert job.progress.bytes_present < 3_000_000
        source.throttle.limit(None, None)
        await source.seed(content.id, content.manifest, content.leaves, content.data, PIECE)
        await one.fetch(job, net.holders, "source")
        assert same(content, job.data)
        assert net.ports == ports
        await net.close()

    asyncio.run(run())


def test_the_source_shows_receivers_a_short_queue_before_they_connect(tmp_path):
    async def run() -> None:
        net, content = Net(), make_content(tmp_path / "src", {"a": 1_500_000, "b": 70_000})
        source = await seeding(net, tmp_path, content)
        shown = []

        async def join(receiver: str, receivers: int) -> None:
            body = {"content": content.id, "piece_size": PIECE, "source": True, "receivers": receivers}
            await source.rpc_handlers()["swarm.join"](Caller(receiver), body)
            shown.append(source._session._settings["max_allowed_in_request_queue"])

        for receivers in (1, 5, 32):
            await join("receiver", receivers)
        assert shown == [128, 4, 2]
        await net.close()

    asyncio.run(run())


def test_libtorrent_can_be_started_before_it_is_needed_and_only_once(tmp_path):
    async def run() -> None:
        net = Net()
        swarm = await net.add(tmp_path, "one")
        await asyncio.gather(swarm.get_ready(), swarm.get_ready())
        session = swarm._session._session
        assert session is not None
        await swarm.get_ready()
        assert swarm._session._session is session
        await net.close()

    asyncio.run(run())


def test_a_receiver_with_coarse_digests_alone_is_told_what_has_come_and_can_make_the_leaves(tmp_path):
    async def run() -> None:
        net, content = Net(), make_content(tmp_path / "src", MIXED)
        await seeding(net, tmp_path, content)
        swarm = await net.add(tmp_path, "one")
        store = Store(tmp_path / "store", headroom=0)
        store.open_lock()
        with store.stage("tx") as staging:
            staging.prepare(content.manifest)
            digests = coarse(content.manifest, content.leaves)
            maker = LeafMaker(staging, content.manifest, digests)
            told: list[tuple[str, int, int]] = []

            def arrived(places: list[tuple[str, int, int]]) -> None:
                told.extend(places)
                maker.note(places)

            job = dataclasses.replace(job_for(content, staging.data, PIECE), digests=digests, arrived=arrived)
            await swarm.fetch(job, net.holders, "source")
            assert same(content, staging.data)
            assert len(told) == len(set(told))
            assert {path for path, _, _ in told} <= {entry.path for entry in content.manifest.files()}
            maker.make()
            maker.finish()
            maker.close()
            assert staging.leaves() == content.leaves
        store.close()
        await net.close()

    asyncio.run(run())


@pytest.mark.parametrize("piece", [16 << 10, 32 << 10, 96 << 10, 256 << 20])
def test_a_member_that_names_pieces_that_nobody_uses_is_not_believed(piece):
    assert not is_piece_size(piece)
    with pytest.raises(IntegrityFailed):
        agreement({"piece_size": piece, "pack": None})
