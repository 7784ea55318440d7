from __future__ import annotations

import asyncio
import json
import threading

import msgspec
import pytest
from cached.errors import CachedError
from cached.peers import gossip, own
from cached.peers.authority import admit, init_cluster, revoke
from cached.peers.directory import Directory
from cached.peers.gossip import Gossip
from cached.peers.identity import Identity
from cached.peers.keyfile import write_private
from cached.peers.records import Holding, NodeContents
from cached.sets.set import set_id
from tests.peers.directory_kit import FAST, Node, until


def test_nodes_find_each_other_through_one_seed_and_tell_of_their_replicas(play):
    async def scene(cluster):
        nodes = [await cluster.add(name) for name in "abcdef"]
        everyone = {node.id for node in nodes}
        await until(lambda: all(node.alive() == everyone for node in nodes))
        holding = Holding(
            set_id="ab" * 16, revision=1, content="cd" * 32, state="COMMITTED", lease_seconds_left=10000.0
        )
        nodes[3].directory.publish(NodeContents(host="h", replicas=(holding,), ad={"Memory": 5}))
        await until(lambda: all(node.directory.holders("ab" * 16) for node in nodes))
        found = nodes[0].directory.holders("ab" * 16)[0]
        assert found.node.record.id == nodes[3].id
        assert found.node.record.ad == {"Memory": 5, "Reachable": True}
        assert 9000 < found.holding.lease_seconds_left <= 10000
        assert nodes[0].directory.node("d").record.id == nodes[3].id
        assert nodes[0].directory.node(nodes[3].id[:8]).record.id == nodes[3].id
        assert nodes[0].directory.node("zz") is None
        assert nodes[0].directory.age_seconds() < 10
        assert await nodes[0].link.call(nodes[5].id, "echo", {"x": 1}) == {"x": 1}

    play(scene)


def test_saying_the_same_again_makes_no_new_version(play):
    async def scene(cluster):
        node = await cluster.add("a")
        holding = Holding(
            set_id="ab" * 16, revision=1, content="c", state="COMMITTED", lease_seconds_left=50.0
        )
        changes = []
        node.directory.on_change(changes.append)
        for _ in range(5):
            node.directory.publish(NodeContents(replicas=(holding,)))
        assert changes == [frozenset((node.id,))]
        node.directory.publish(
            NodeContents(replicas=(msgspec.structs.replace(holding, lease_seconds_left=80.0),))
        )
        assert len(changes) == 2

    play(scene)


def test_how_far_a_replica_on_its_way_is_is_told_seldom_and_without_a_rumour(play, monkeypatch):
    async def scene(cluster):
        a, b = [await cluster.add(name) for name in "ab"]
        await until(lambda: len(a.alive()) == len(b.alive()) == 2)
        coming = Holding(set_id="ab" * 16, revision=1, content="c", state="TRANSFERRING")
        changes, spread = [], []
        a.directory.on_change(changes.append)
        monkeypatch.setattr(a.directory._rumours, "spread", lambda **news: spread.append(news))

        def at(present: int, **more) -> None:
            one = msgspec.structs.replace(coming, bytes_present=present, bytes_per_second=present / 7, **more)
            a.directory.publish(NodeContents(replicas=(one,)))

        at(0)
        for present in range(1, 20):
            at(present)
        assert (len(changes), len(spread)) == (1, 1)
        monkeypatch.setattr(own, "PROGRESS", 0.05)
        monkeypatch.setattr(own, "PROGRESS_EACH", 0.05)
        await until(lambda: len(list(b.directory.holders("ab" * 16))) == 1)
        passed_on: set[str] = set()
        monkeypatch.setattr(b.directory._rumours, "spread", lambda **news: passed_on.update(news["nodes"]))
        await asyncio.sleep(0.06)
        at(20)
        assert (len(changes), len(spread)) == (2, 1)
        await until(lambda: [one.holding.bytes_present for one in b.directory.holders("ab" * 16)] == [20])
        assert a.id not in passed_on
        at(21, reason="no holder is reachable")
        assert (len(changes), len(spread)) == (3, 2)
        await until(lambda: a.id in passed_on)

    play(scene)


def test_who_passes_on_a_record_names_it_and_hands_it_to_those_who_ask_for_it(play, monkeypatch):
    async def scene(cluster):
        a, b, c = [await cluster.add(name) for name in "abc"]
        await until(lambda: len(a.alive()) == len(b.alive()) == len(c.alive()) == 3)

        async def no_swap(gossip, node_id):
            pass

        monkeypatch.setattr(Gossip, "swap", no_swap)
        monkeypatch.setattr(a.directory._rumours, "_listeners", lambda: [b.id])
        a.directory.publish(NodeContents(free_bytes=7))
        await until(lambda: c.directory.node(a.id).record.free_bytes == 7)
        told = b.directory._gossip.rumour([a.id, b.id], [], revocations=False)
        assert [json.loads(signed.payload)["id"] for signed in told.nodes] == [b.id]
        assert a.id in [row[0] for row in told.rows]

    play(scene)


def test_news_goes_to_those_who_are_connected_if_there_is_a_choice(play, monkeypatch):
    async def scene(cluster):
        a, b = [await cluster.add(name) for name in "ab"]
        await until(lambda: len(a.alive()) == len(b.alive()) == 2)
        await a.link.call(b.id, "echo", {})
        assert a.link.at_hand(b.id)
        assert not a.link.at_hand("c")
        directory, near = a.directory, set("abcdefgh")
        monkeypatch.setattr(directory._members, "living", lambda _: frozenset("abcdefghijkl"))
        monkeypatch.setattr(directory._link, "can_call", lambda _: True)
        monkeypatch.setattr(directory._link, "at_hand", lambda one: one in near)
        drawn = {one for _ in range(200) for one in directory._listeners(4)}
        assert drawn == near
        near.discard("h")
        drawn = {one for _ in range(200) for one in directory._listeners(4)}
        assert drawn == set("abcdefghijkl")

    play(scene)


def test_a_record_that_several_pass_on_is_asked_for_once(play, monkeypatch):
    async def scene(cluster):
        a, b = [await cluster.add(name) for name in "ab"]
        await until(lambda: len(a.alive()) == len(b.alive()) == 2)
        [(one, incarnation, version, beat)] = b.directory._gossip.rumour([a.id], [], revocations=False).rows
        missing = b.directory._gossip._missing
        assert missing([(one, incarnation, version, beat + 1)]) == []
        assert missing([(one, incarnation, version + 1, beat)]) == [a.id]
        assert missing([(one, incarnation, version + 1, beat + 1)]) == []
        monkeypatch.setattr(gossip, "MAX_WANTED", 3)
        assert missing([(f"stranger {number}", 1, 1, 1) for number in range(9)]) == [
            f"stranger {number}" for number in range(3)
        ]
        monkeypatch.setattr(gossip, "ASK_AGAIN", 0.0)
        assert missing([(one, incarnation, version + 1, beat)]) == [a.id]

    play(scene)


def test_a_dead_node_is_noticed_and_a_restarted_one_is_used_again(play):
    async def scene(cluster):
        a, b, c = [await cluster.add(name) for name in "abc"]
        await until(lambda: len(a.alive()) == len(b.alive()) == len(c.alive()) == 3)
        changes = []
        a.directory.on_change(changes.append)
        first = a.directory.node(c.id).record.incarnation
        await cluster.remove(c, orderly=False)
        await until(lambda: c.id not in a.alive() | b.alive())
        assert a.directory.node(c.id) is not None
        await until(lambda: any(c.id in change for change in changes))
        again = await cluster.add("c", state="c2", seeds=[a.address])
        assert again.id == c.id
        await until(lambda: again.id in a.alive() & b.alive())
        assert a.directory.node(c.id).record.incarnation > first
        assert await a.link.call(c.id, "echo", {}) == {}

    play(scene)


def test_a_peer_that_hangs_does_not_silence_a_node(play):
    async def scene(cluster):
        a, b = [await cluster.add(name) for name in "ab"]
        await until(lambda: len(a.alive()) == 2)
        hung = asyncio.Event()

        async def hang(_node_id):
            hung.set()
            await asyncio.Event().wait()

        a.directory._gossip.swap = hang
        await asyncio.wait_for(hung.wait(), 120)
        beats = a.directory.own_row()[3]
        await until(lambda: a.directory.own_row()[3] > beats + 2 * FAST.dead / FAST.round)
        await until(lambda: a.id in b.alive())

    play(scene)


def test_an_orderly_stop_is_known_at_once(play):
    async def scene(cluster):
        slow_to_mourn = msgspec.structs.replace(FAST, dead=3600.0)
        a, b, c = [await cluster.add(name, pace=slow_to_mourn) for name in "abc"]
        await until(lambda: len(a.alive()) == len(b.alive()) == len(c.alive()) == 3)
        await cluster.remove(c)
        await until(lambda: c.id not in a.alive() | b.alive())

    play(scene)


def test_records_and_tombstones_of_sets_reach_all_also_late_comers(play):
    async def scene(cluster):
        a, b, c = [await cluster.add(name) for name in "abc"]
        await until(lambda: len(a.alive()) == 3)
        a.sign()
        await until(lambda: b.book.records and c.book.records)
        for number in range(600):
            b.sign(f"{number:032x}")
        b.sign(revision=2, status="deleted")
        a.sign(revision=3)
        late = await cluster.add("late")
        nodes = [a, b, c, late]
        await until(lambda: len({str(sorted(node.book.known().items())) for node in nodes}) == 1)
        assert len(late.book.records) == 601
        assert late.book.records[set_id("ada", "cd" * 32, "ab" * 16)].record().status == "deleted"
        offered, silent = [], 0
        while silent < 10:  # rounds, after those that were under way: an idle cluster exchanges no records
            before, offered = offered, [node.book.offered for node in nodes]
            silent = silent + 1 if offered == before else 0
            await asyncio.sleep(FAST.round)

    play(scene)


def test_a_record_that_the_signer_may_not_make_is_not_taken(play):
    async def scene(cluster):
        a, b = [await cluster.add(name) for name in "ab"]
        await until(lambda: len(a.alive()) == 2)
        a.sign(owner="ada@elsewhere")
        a.sign("00" * 16)
        await until(lambda: b.book.records)
        await asyncio.sleep(5 * FAST.round)
        assert list(b.book.records) == [set_id("ada", "cd" * 32, "00" * 16)]

    play(scene)


def test_clusters_of_different_authorities_never_mix(play):
    async def scene(cluster):
        a = await cluster.add("a")
        other = cluster.folder / "other.key"
        init_cluster(other)
        stranger = await cluster.add("stranger", key_file=other)
        a.directory.learn(stranger.address)
        await until(lambda: a.link.refused > 0)
        await asyncio.sleep(6 * FAST.round)
        assert a.alive() == {a.id}
        assert stranger.alive() == {stranger.id}

    play(scene)


def test_a_hint_is_enough_to_join(play):
    async def scene(cluster):
        a = await cluster.add("a")
        b = await cluster.add("b", seeds=[])
        b.directory.learn(a.address)
        await until(lambda: a.alive() == b.alive() == {a.id, b.id})

    play(scene)


def test_a_peer_that_calls_while_a_node_is_still_starting_is_told_so(play, caplog, monkeypatch):
    async def scene(cluster):
        first = await cluster.add("a")
        found, go_on = Directory._find_address, threading.Event()

        def slow(directory):
            assert go_on.wait(120)
            return found(directory)

        late = Node(Identity.open(cluster.folder / "late", key_file=cluster.key_file), "late")
        await late.link.start(late.listen)
        monkeypatch.setattr(Directory, "_find_address", slow)
        starting = asyncio.create_task(late.directory.start())
        await asyncio.sleep(0)
        try:
            await first.link.dial(late.address)
            with pytest.raises(CachedError, match="starting"):
                await first.directory._gossip.swap(late.id)
        finally:
            go_on.set()
            await starting
        cluster.nodes.append(late)
        await first.directory._gossip.swap(late.id)

    play(scene)
    assert not [one for one in caplog.records if one.exc_info]


def test_halves_that_lost_sight_of_each_other_grow_together(play):
    async def scene(cluster):
        a = await cluster.add("a")
        b = await cluster.add("b", seeds=[])
        c = await cluster.add("c", seeds=[a.address])
        d = await cluster.add("d", seeds=[b.address])
        await until(
            lambda: (
                a.alive() == c.alive() and b.alive() == d.alive() and len(a.alive()) == len(b.alive()) == 2
            )
        )
        d.directory._seeds = (b.address, a.address)
        await until(lambda: all(len(node.alive()) == 4 for node in (a, b, c, d)))

    play(scene)


def test_a_node_that_cannot_be_dialled_takes_part_and_says_so(play):
    async def scene(cluster):
        a, b = [await cluster.add(name) for name in "ab"]
        hidden = await cluster.add("hidden", advertise="127.0.0.1:1")
        await until(lambda: not hidden.directory.reachable)

        def known_as_hidden(node):
            entry = node.directory.node(hidden.id)
            return entry is not None and not entry.record.reachable

        await until(lambda: known_as_hidden(a) and known_as_hidden(b))
        assert a.directory.node(hidden.id).record.ad["Reachable"] is False
        await until(lambda: a.link.can_call(hidden.id) and b.link.can_call(hidden.id))
        assert await a.link.call(hidden.id, "echo", {"x": 1}) == {"x": 1}
        assert await b.link.call(hidden.id, "echo", {"x": 2}) == {"x": 2}
        a.sign()
        await until(lambda: hidden.book.records)
        made = hidden.sign("01" * 16).record()
        await until(lambda: made.id in b.book.records)
        await asyncio.sleep(2 * FAST.dead)
        await until(lambda: hidden.id in a.alive() & b.alive())
        hidden.directory._advertise = f"127.0.0.1:{hidden.link.port}"
        await until(lambda: a.directory.node(hidden.id).record.reachable)

    play(scene)


def test_a_revocation_spreads_and_shuts_the_node_out(play):
    async def scene(cluster):
        path = cluster.folder / "node.key"
        write_private(path, admit(cluster.key_file).text)
        a, b = [await cluster.add(name) for name in "ab"]
        node = await cluster.add("node", key_file=path)
        await until(lambda: all(node.id in one.alive() for one in (a, b)))
        revoke(cluster.key_file, [node.id])
        await until(lambda: all(one.alive() == {a.id, b.id} for one in (a, b)))
        await until(lambda: not node.alive() & {a.id, b.id})

    play(scene)


def test_a_node_that_lost_its_count_of_starts_is_heard_again(play):
    async def scene(cluster):
        path = cluster.folder / "node.key"
        write_private(path, admit(cluster.key_file).text)
        a = await cluster.add("a")
        state = Identity.open(cluster.folder / "lost", key_file=path)
        state.next_incarnation(at_least=50)
        node = await cluster.add("node", key_file=path, state="lost")
        await until(lambda: node.id in a.alive())
        await cluster.remove(node, orderly=False)
        again = await cluster.add("node", key_file=path, state="fresh")
        await until(lambda: again.id in a.alive() and a.directory.node(again.id).record.incarnation > 51)
        await until(lambda: a.directory.node(again.id).record.address == again.directory.address)

    play(scene)
