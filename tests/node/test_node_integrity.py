"""Damage is found, named, kept from readers and peers, remembered over restarts, and repaired without being asked."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat

import pytest
from cached.errors import CachedError, IntegrityFailed
from cached.leases import upkeep
from cached.node import damage, fetch, read, revise, status, verify
from cached.node.scrubber import Scrubber
from cached.peers.records import Peer
from cached.replication import serving
from cached.sets.names import parse_ref
from tests.node.fakes import caller, create_set, until, world

ALICE = caller("alice")
NR = parse_ref("nr")
FILES = {"f": b"bytes", "dir/g": b"more"}


def bytes_of(node, path, name="nr"):
    opened = read.open_now(node, ALICE, parse_ref(name), path)
    try:
        return os.read(opened.fd, 100)
    finally:
        os.close(opened.fd)
        read.release(node, opened.pin)


def spoil(node, content, path="f", data=b"BYTES", tier="disk"):
    place = node.stores[tier].data(content) / path
    mode = stat.S_IMODE(place.stat().st_mode)
    place.chmod(0o644)
    place.write_bytes(data)
    place.chmod(mode)


async def pair(w):
    """A set on a and on b."""
    a, b = await w.node("a"), await w.node("b")
    view = await create_set(a, ALICE, "nr", FILES)
    await w.gossip()
    await fetch.fetch(b, ALICE, NR, None)
    await w.gossip()
    return a, b, view


async def found(node):
    """Verify without repair."""
    return (await verify.verify(node, ALICE, NR, False, None)).damaged


@pytest.mark.parametrize("part", ["data/f", "data/dir/g", "leaves", "manifest"])
def test_creating_the_same_files_again_repairs_what_lies_here(tmp_path, part):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            view = await create_set(node, ALICE, "nr", FILES)
            place = node.stores["disk"].home(view.content) / part
            place.chmod(0o644)
            place.write_bytes(place.read_bytes()[:-1] + b"!")
            again = await create_set(node, ALICE, "again", FILES)
            assert again.content == view.content
            assert (await verify.verify(node, ALICE, parse_ref("again"), False, None)).ok
            assert bytes_of(node, "f") == b"bytes"
            assert node.stores["disk"].list_incoming() == []

    asyncio.run(story())


def test_creating_the_same_files_again_brings_back_files_that_are_gone(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            view = await create_set(node, ALICE, "nr", FILES)
            assert await found(node) == []
            home = node.stores["disk"].home(view.content)
            (home / "data" / "dir").chmod(0o755)
            shutil.rmtree(home / "data" / "dir")
            (home / "manifest").unlink()
            assert (await found(node))[0].reason.startswith("manifest")
            with pytest.raises(IntegrityFailed):
                bytes_of(node, "f")
            await create_set(node, ALICE, "again", FILES)
            assert await found(node) == []
            assert bytes_of(node, "dir/g") == b"more"

    asyncio.run(story())


def test_a_damaged_file_is_not_served_by_any_way_and_the_others_are(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            view = await create_set(node, ALICE, "nr", FILES)
            await create_set(node, ALICE, "twin", FILES)
            spoil(node, view.content)
            assert [one.path for one in await found(node)] == ["f"]
            for path, name in [("f", "nr"), ("./dir/../f", "nr"), ("f", "twin")]:
                with pytest.raises(IntegrityFailed) as refused:
                    bytes_of(node, path, name)
                assert refused.value.exit_code == 7
                assert path in refused.value.message
                assert refused.value.hint == f"cached verify {name} --repair"
            assert node.pins.count() == 0
            assert bytes_of(node, "dir/g") == b"more"
            top = read.open_now(node, ALICE, NR, "")
            assert stat.S_IMODE(os.stat("f", dir_fd=top.fd).st_mode) == 0, "nor through the directory"
            os.close(top.fd)
            assert "f" in (await read.show(node, ALICE, NR)).replicas[0].reason
            words = (await status.status(node, ALICE))["health"]
            assert [word for word in words if "nr" in word and "damaged: f" in word]
            assert [word for word in (await status.status(node, caller("eve")))["health"] if "f" in word]
            assert not [word for word in (await status.status(node, caller("eve")))["health"] if "nr" in word]

    asyncio.run(story())


def test_damage_is_remembered_over_a_restart_and_goes_with_the_repair(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            _, b, view = await pair(w)
            spoil(b, view.content)
            await found(b)
            await w.crash("b")
            w.down.add("a")
            b = await w.node("b")
            with pytest.raises(IntegrityFailed):
                bytes_of(b, "f")
            scrubber = Scrubber(b)
            scrubber.repair(0.0)
            assert not [key for key in b.flights if key.startswith("heal")], "nobody has it"
            w.down.clear()
            scrubber.repair(0.0)
            await until(lambda: bytes_of(b, "f") if damage.whole(b, view.content, "disk") else None)
            assert bytes_of(b, "f") == b"bytes"
            assert await found(b) == []
            assert damage.troubles(b) == []
            await w.crash("b")
            b = await w.node("b")
            assert b.shelf.withheld == {}
            scrubber.close()

    asyncio.run(story())


def test_a_repair_that_fails_is_tried_again_later(tmp_path, monkeypatch):
    async def story():
        monkeypatch.setattr("cached.node.metadata.ROUNDS", 1)
        async with world(tmp_path) as w:
            a, b, view = await pair(w)
            for node in (a, b):
                spoil(node, view.content)
                await found(node)
            scrubber = Scrubber(b)
            scrubber.repair(0.0)
            await until(lambda: scrubber._attempts)
            ((attempts, due),) = scrubber._attempts.values()
            assert attempts == 1
            await until(lambda: not [key for key in b.flights if key.startswith("heal")])
            scrubber.repair(due - 0.1)
            assert not [key for key in b.flights if key.startswith("heal")]
            spoil(a, view.content, data=b"bytes")
            await found(a)
            assert damage.whole(a, view.content, "disk")
            scrubber.repair(due)
            await until(lambda: damage.whole(b, view.content, "disk"))
            scrubber.repair(due)
            assert scrubber._attempts == {}
            scrubber.close()

    asyncio.run(story())


def test_a_damaged_copy_is_not_handed_on_but_its_whole_files_mend_others(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view = await pair(w)
            spoil(a, view.content)
            spoil(b, view.content, "dir/g", b"MORE")
            await found(a)
            await found(b)
            c = await w.node("c")
            await w.gossip()
            with pytest.raises(CachedError, match="damaged"):
                await fetch.fetch(c, ALICE, NR, None)
            for node in (a, b):
                assert (await verify.verify(node, ALICE, NR, True, None)).ok
                await w.gossip()
            await fetch.fetch(c, ALICE, NR, None)
            assert bytes_of(c, "f") == b"bytes"

    asyncio.run(story())


def test_what_a_peer_received_wrong_is_looked_at_and_withheld(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view = await pair(w)
            scrubber = Scrubber(a)
            spoil(a, view.content)
            with pytest.raises(CachedError):
                await scrubber.doubted(Peer(node_id="stranger", domains=frozenset()), view.content)
            await scrubber.doubted(Peer(node_id=b.id, domains=frozenset()), view.content)
            await until(lambda: not damage.whole(a, view.content, "disk"))
            with pytest.raises(CachedError, match="damaged"):
                async for _ in b.link.fetch(
                    a.id, serving.STREAM, {"content": view.content, "ranges": [[0, 2]]}
                ):
                    pass
            scrubber.repair(0.0)
            await until(lambda: damage.whole(a, view.content, "disk"))
            spoil(a, view.content)
            await scrubber.doubted(Peer(node_id=b.id, domains=frozenset()), view.content)
            assert not [key for key in a.flights if key.startswith("suspect")], "it has just been read"
            scrubber.close()

    asyncio.run(story())


def test_the_scrubber_reads_everything_once_an_interval_and_finds_what_rots(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            view = await create_set(node, ALICE, "nr", FILES)
            other = await create_set(node, ALICE, "other", {"x": b"x"})
            scrubber = Scrubber(node)
            scrubber.verify_next()
            assert "scrub" not in node.flights, "it was verified when it came"
            w.clock.pass_(upkeep.INTERVAL + 1)
            spoil(node, view.content)
            for _ in range(2):
                scrubber.verify_next()
                await node.flights["scrub"]
            assert not damage.whole(node, view.content, "disk")
            assert damage.whole(node, other.content, "disk")
            assert {check.wall for check in node.shelf.checks.values()} == {w.clock.wall}
            scrubber.verify_next()
            assert "scrub" not in node.flights
            await w.crash("a")
            node = await w.node("a")
            assert {check.wall for check in node.shelf.checks.values()} == {w.clock.wall}
            scrubber.close()

    asyncio.run(story())


def test_the_scrubber_mends_on_the_spot_what_needs_no_bytes(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            view = await create_set(node, ALICE, "nr", FILES)
            (node.stores["disk"].data(view.content) / "f").chmod(0o666)
            scrubber = Scrubber(node)
            w.clock.pass_(upkeep.INTERVAL + 1)
            scrubber.verify_next()
            await node.flights["scrub"]
            assert stat.S_IMODE((node.stores["disk"].data(view.content) / "f").stat().st_mode) == 0o444
            scrubber.close()

    asyncio.run(story())


def test_a_rotten_memory_copy_is_made_anew_from_the_disk_and_the_disk_is_read_meanwhile(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", memory=True)
            view = await create_set(node, ALICE, "nr", FILES, tier="memory")
            spoil(node, view.content, tier="memory")
            assert bytes_of(node, "f") == b"BYTES"
            scrubber = Scrubber(node)
            w.clock.pass_(upkeep.INTERVAL + 1)
            for _ in range(2):
                scrubber.verify_next()
                await node.flights["scrub"]
            assert not damage.whole(node, view.content, "memory")
            assert bytes_of(node, "f") == b"bytes"
            scrubber.repair(0.0)
            await until(lambda: (view.content, "memory") in node.shelf.contents and not node.shelf.withheld)
            assert (node.stores["memory"].data(view.content) / "f").read_bytes() == b"bytes"
            scrubber.close()

    asyncio.run(story())


def test_a_content_with_several_sets_is_repaired_once_from_whoever_has_one_of_them(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            _, b, view = await pair(w)
            await create_set(b, ALICE, "mine", FILES)
            spoil(b, view.content)
            heals = []
            real = verify.mend
            monkeypatch.setattr(verify, "mend", lambda *args: heals.append(args[1]) or real(*args))
            assert (await verify.verify(b, ALICE, parse_ref("mine"), True, None)).ok
            assert heals == [view.content]
            assert bytes_of(b, "f", "mine") == b"bytes"

    asyncio.run(story())


def test_a_damaged_manifest_comes_from_another_holder(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            _, b, view = await pair(w)
            (b.stores["disk"].home(view.content) / "manifest").write_bytes(b"nonsense")
            spoil(b, view.content)
            assert [one.reason.partition(":")[0] for one in await found(b)] == ["manifest"]
            with pytest.raises(IntegrityFailed):
                bytes_of(b, "dir/g")
            assert (await verify.verify(b, ALICE, NR, True, None)).ok
            assert bytes_of(b, "f") == b"bytes"

    asyncio.run(story())


def test_the_mark_goes_with_the_content(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            view = await create_set(node, ALICE, "nr", FILES)
            spoil(node, view.content)
            await found(node)
            await revise.delete(node, ALICE, NR, True, False)
            await until(lambda: not node.shelf.contents)
            assert node.shelf.withheld == node.shelf.checks == {}
            await create_set(node, ALICE, "nr", FILES)
            assert bytes_of(node, "f") == b"bytes"

    asyncio.run(story())
