from __future__ import annotations

import asyncio
import dataclasses
import socket
from typing import Any

from cached.replication import queues
from cached.replication import torrent as torrents
from cached.replication.bittorrent import Swarm
from cached.replication.layout import Layout
from cached.replication.members import Members
from cached.replication.torrent import Torrent
from cached.replication.transfer import Holder
from tests.replication.swarm_kit import PIECE, Caller, Content, Net, job_for, make_content, same, seeding


async def added(swarm: Swarm, content: Content) -> Torrent:
    """Wait until a content that is fetched is in libtorrent."""
    there = swarm._session.torrents
    while content.id not in there or there[content.id].handle is None:
        await asyncio.sleep(0)
    return there[content.id]


def test_a_member_that_cannot_reach_the_source_keeps_no_pieces_from_the_others(tmp_path):
    async def run() -> None:
        net, content = Net(), make_content(tmp_path / "src", {"a": 4_000_000})
        await seeding(net, tmp_path, content)
        for name in ("one", "two"):
            await net.add(tmp_path, name, patience=10.0)
        jobs = {name: job_for(content, tmp_path / name, PIECE) for name in ("one", "two")}

        def with_a_wrong_port():
            return [
                dataclasses.replace(holder, bittorrent_port=1) if holder.node_id == "source" else holder
                for holder in net.holders()
            ]

        astray = asyncio.create_task(net.swarms["two"].fetch(jobs["two"], with_a_wrong_port, "source"))
        while ("two", "source", "swarm.claim") not in net.calls:
            await asyncio.sleep(0.01)
        await asyncio.gather(net.swarms["one"].fetch(jobs["one"], net.holders, "source"), astray)
        for job in jobs.values():
            assert same(content, job.data)
        await net.close()

    asyncio.run(run())


def test_a_source_is_not_left_when_another_member_comes_from_its_address():
    async def run() -> None:
        def holder(node_id: str, host: str) -> Holder:
            return Holder(node_id=node_id, host=host, bittorrent_port=1, complete=False)

        holders = [holder("source", "127.0.0.2"), holder("other", "127.0.0.3")]
        torrent = Torrent(Layout(content="c", piece_size=PIECE, files=()))
        members = Members(
            torrent=torrent,
            holders=lambda: holders,
            source="source",
            node_id="me",
            reachable=True,
            port=1,
            call=lambda *_: asyncio.sleep(0, {}),
            receivers=2,
        )
        await members.refresh()
        assert members.address_of_source() == ""
        members.seen({"source": "127.0.0.2", "other": "127.0.0.3"})
        assert members.address_of_source() == "127.0.0.2"
        members.seen({"source": "127.0.0.1", "other": "127.0.0.1"})
        assert members.address_of_source() == ""
        await members.close()

    asyncio.run(run())


def test_who_fetches_lets_less_of_each_member_wait_here_the_more_come_for_the_same(tmp_path):
    async def run() -> None:
        net, content = Net(), make_content(tmp_path / "src", {"a": 4_000_000})
        await seeding(net, tmp_path, content)
        one = await net.add(tmp_path, "one", patience=30.0, round_trip=lambda _: 0.0001)
        there: list[Holder] = [dataclasses.replace(net.holders()[0], bittorrent_port=1)]
        job = job_for(content, tmp_path / "one", PIECE)
        fetching = asyncio.create_task(one.fetch(job, lambda: there, "source"))

        async def until_queue_is(queue: int) -> None:
            while one._session._settings["max_allowed_in_request_queue"] != queue:
                assert not fetching.done()
                await asyncio.sleep(0.01)

        await asyncio.wait_for(until_queue_is(queues.member_queue(0.0001, 1)), 20)
        there += [Holder(node_id=f"n{i}", host="", bittorrent_port=0, complete=False) for i in range(4)]
        await asyncio.wait_for(until_queue_is(queues.member_queue(0.0001, 5)), 20)
        assert queues.member_queue(0.0001, 5) < queues.member_queue(0.0001, 1)
        fetching.cancel()
        await asyncio.gather(fetching, return_exceptions=True)
        await net.close()

    asyncio.run(run())


def test_a_claim_among_very_many_asks_for_the_distance_of_a_few(tmp_path):
    async def run() -> None:
        net, content = Net(), make_content(tmp_path / "src", {"a": 4_000_000})
        asked: list[str] = []

        def round_trip(node_id: str) -> float:
            asked.append(node_id)
            return 0.05 if node_id == "far" else 0.0002

        source = await seeding(net, tmp_path, content, round_trip=round_trip)
        claim = source.rpc_handlers()["swarm.claim"]
        body = {
            "content": content.id,
            "wanted": "0",
            "pending": "0",
            "count": 0,
            "stalled": False,
            "receivers": 200,
        }
        for number in range(200):
            await claim(Caller(f"n{number}"), body)
        asked.clear()
        answer = await claim(Caller("far"), body)
        assert "far" in asked
        assert len(asked) <= queues.ASKED + 1
        assert answer["queue"] == queues.source_queue(0.0002, 200)
        await net.close()

    asyncio.run(run())


def test_a_member_that_answers_no_connection_for_a_while_is_dialled_until_it_does(tmp_path):
    async def run() -> None:
        refused = []

        def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            refused.append(1)
            writer.close()

        with socket.create_server(("127.0.0.99", 0)) as free:
            port = free.getsockname()[1]
        deaf = await asyncio.start_server(refuse, "127.0.0.99", port)
        net, content = Net(), make_content(tmp_path / "src", {"a": 400_000})
        one = await net.add(tmp_path, "one")
        net.hosts["two"], net.ports["two"] = "127.0.0.99", port
        job = job_for(content, tmp_path / "one-staging", PIECE)

        def holders() -> list[Holder]:
            return [
                Holder(node_id=name, host=net.hosts[name], bittorrent_port=net.ports[name], complete=False)
                for name in ("one", "two")
            ]

        fetching = asyncio.create_task(one.fetch(job, holders, "two"))
        while len(refused) < 5:
            await asyncio.sleep(0.01)
        deaf.close()
        await deaf.wait_closed()

        async def call(*_: object) -> dict[str, object]:
            return {}

        two = Swarm(node_id="two", listen=f"127.0.0.99:{port}", scratch=tmp_path / "two", call=call)
        await two.start()
        await two.seed(content.id, content.manifest, content.leaves, content.data, PIECE)
        await fetching
        assert same(content, job.data)
        await net.close()
        await two.close()

    asyncio.run(run())


def test_libtorrent_turns_often_only_while_something_is_fetched(tmp_path):
    async def run() -> None:
        net, content = Net(), make_content(tmp_path / "src", {"a": 4_000_000})
        source = await seeding(net, tmp_path, content)
        one = await net.add(tmp_path, "one")
        session = one._session
        usual = session._settings["tick_interval"]
        fetching = asyncio.create_task(
            one.fetch(job_for(content, tmp_path / "x", PIECE), net.holders, "source")
        )
        while abs(session._settings["tick_interval"]) == usual:
            await asyncio.sleep(0)
        await fetching
        while session._settings["tick_interval"] != usual:
            await asyncio.sleep(0.01)
        assert source._session._settings["tick_interval"] == usual, "who only gives has nobody to dial"
        assert net.calls.count(("one", "source", "swarm.join")) == 1, "who describes the swarm is in it"
        await net.close()

    asyncio.run(run())


def test_who_is_connected_is_asked_when_members_come_or_go_and_seldom_besides(tmp_path, monkeypatch):
    looks: list[str] = []
    for name in ("_look", "_pieces"):
        original = getattr(torrents, name)

        def counted(handle: Any, name: str = name, original: Any = original) -> Any:
            looks.append(name)
            return original(handle)

        monkeypatch.setattr(torrents, name, counted)

    async def run() -> None:
        net, content = Net(), make_content(tmp_path / "src", {"a": 4_000_000})
        await seeding(net, tmp_path, content)
        one = await net.add(tmp_path, "one")
        job = job_for(content, tmp_path / "x", PIECE)
        fetching = asyncio.create_task(one.fetch(job, net.holders, "source"))
        await added(one, content)
        one.throttle.hold({content.id}, 500_000)
        while not job.progress.by_source.get("source"):
            await asyncio.sleep(0.01)
        looks.clear()
        while len(looks) < 20:
            assert not fetching.done()
            await asyncio.sleep(0.01)
        one.throttle.hold(set(), 1_000_000)
        await fetching
        await net.close()

    asyncio.run(run())
    alone = looks.count("_pieces") - looks.count("_look")  # each look counts the pieces, too
    assert looks.count("_look") * 2 < alone


def test_a_piece_is_begun_while_some_of_its_blocks_are_asked_for_and_others_are_not(tmp_path):
    async def run() -> None:
        net, content = Net(), make_content(tmp_path / "src", {"a": 6_000_000})
        await seeding(net, tmp_path, content, piece=1 << 20)
        one = await net.add(tmp_path, "one")
        job = job_for(content, tmp_path / "x", 1 << 20)
        fetching = asyncio.create_task(one.fetch(job, net.holders, "source"))
        torrent = await added(one, content)
        one.throttle.hold({content.id}, 500_000)
        while not (pieces := await torrent.pieces()).begun:
            assert not fetching.done()
            await asyncio.sleep(0.01)
        assert not pieces.begun & torrent.have
        one.throttle.hold(set(), 1_000_000)
        await fetching
        assert (await torrent.pieces()).begun == 0
        await net.close()

    asyncio.run(run())
