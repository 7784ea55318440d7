"""Files that an owner's sets have in common: they lie once, are counted once, and stay as long as one set has them."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat

import pytest
from cached.errors import NoSpace
from cached.leases import capacity
from cached.node import create, read, recover, retire, revise, sweep, verify
from cached.sets.names import parse_ref
from cached.storage import links
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.node.fakes import NOTHING, caller, create_set, hand_over, left_behind, until, world
from tests.node.sharing_kit import BIG, big, counted, one_file, path_of, there

ALICE, BOB = caller("alice"), caller("bob")


async def both(w, **changes):
    """A node with two sets of alice that have `b` and `c` in common."""
    node = await w.node("a")
    first = await create_set(node, ALICE, "first", big("a", "b", "c"))
    second = await create_set(node, ALICE, "second", big("b", "c", "d"), **changes)
    return node, first, second


async def delete(node, name):
    await revise.delete(node, ALICE, parse_ref(name), everywhere=False, dry_run=False)
    await until(lambda: not [row for row in node.shelf.replicas.values() if row.state == "GOING"])


def test_files_that_two_sets_of_an_owner_have_in_common_lie_once_and_are_counted_once(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node, first, second = await both(w)
            for name in "bc":
                assert one_file(path_of(node, view.id, name) for view in (first, second))
            assert counted(node) == there(node)
            sizes = [node.shelf.contents[(view.content, "disk")].physical for view in (first, second)]
            assert sizes[0] - sizes[1] == 2 * capacity.on_partition(BIG)
            assert node.counts()["bytes_linked"] == 2 * BIG
            for view in (first, second):
                assert (await verify.verify(node, ALICE, parse_ref(view.name), False, None)).ok

    asyncio.run(story())


def test_what_is_shared_stays_read_only_and_keeps_its_time(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node, first, _ = await both(w)
            path = path_of(node, first.id, "b")
            before = path.stat()
            await create_set(node, ALICE, "third", big("b", "e"))
            after = path.stat()
            assert stat.S_IMODE(after.st_mode) == 0o444
            assert (after.st_mtime_ns, after.st_nlink) == (before.st_mtime_ns, 3)

    asyncio.run(story())


def test_what_another_owner_has_is_never_shared(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            mine = await create_set(node, ALICE, "nr", big("a", "b"), share="public")
            theirs = await create_set(node, BOB, "nr", big("a", "c"))
            assert not one_file(path_of(node, view.id, "a") for view in (mine, theirs))
            assert "bytes_linked" not in node.counts()
            assert counted(node) == there(node)

    asyncio.run(story())


def test_an_owner_shares_with_a_content_that_others_hold_as_well(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            theirs = await create_set(node, BOB, "nr", big("a", "b"))
            await create_set(node, ALICE, "nr", big("a", "b"))
            mine = await create_set(node, ALICE, "more", big("a", "c"))
            assert one_file(path_of(node, view.id, "a") for view in (theirs, mine))

    asyncio.run(story())


def test_tiny_files_and_executable_ones_are_copied(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            tiny = {"tiny": b"x" * 16_384, "empty": b"", "larger": b"x" * 16_385}
            first = await create_set(node, ALICE, "first", {**tiny, "1": b"1"})
            second = await create_set(node, ALICE, "second", {**tiny, "2": b"2"})
            assert one_file(path_of(node, view.id, "larger") for view in (first, second))
            for name in ("tiny", "empty"):
                assert path_of(node, second.id, name).stat().st_nlink == 1

    asyncio.run(story())


def test_bytes_come_back_when_the_last_set_that_has_them_goes(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node, _, second = await both(w)
            third = await create_set(node, ALICE, "third", big("c", "e"))
            before = counted(node)
            await delete(node, "first")
            assert counted(node) == there(node)
            assert before - counted(node) < 2 * BIG + capacity.CONTENT, "b and c stay"
            assert one_file(path_of(node, view.id, "c") for view in (second, third))
            await delete(node, "second")
            assert counted(node) == there(node)
            await delete(node, "third")
            assert left_behind(node) == NOTHING

    asyncio.run(story())


def test_a_set_whose_donor_is_deleted_while_it_is_sealed_is_counted_whole(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            await create_set(node, ALICE, "first", big("a", "b", "c"))
            second = await hand_over(node, ALICE, "second", big("b", "c", "d"))
            linked = asyncio.Event()
            seen: list[int] = []
            commit = create.commit.commit

            async def slowly(*args, **others):
                await revise.delete(node, ALICE, parse_ref("first"), everywhere=False, dry_run=False)
                linked.set()
                await asyncio.gather(*[task for key, task in node.flights.items() if key.startswith("reap")])
                seen.append(counted(node))
                assert len(node.stores["disk"].list_contents()) == 1, "what is linked from stays meanwhile"
                return await commit(*args, **others)

            monkeypatch.setattr(create.commit, "commit", slowly)
            await second.seal()
            await sweep.once(node)
            await until(lambda: len(node.shelf.contents) == 1)
            assert counted(node) == there(node)
            row = next(iter(node.shelf.contents.values()))
            assert row.physical == capacity.physical(node.stores["disk"].manifest(row.content))

    asyncio.run(story())


def test_a_creation_that_is_given_up_leaves_the_sets_it_shared_with_as_they_were(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            first = await create_set(node, ALICE, "first", big("a", "b"))
            await create_set(node, ALICE, "other", big("x"))
            with pytest.raises(Exception, match="already have"):
                await create_set(node, ALICE, "other", big("b"))
            assert path_of(node, first.id, "b").stat().st_nlink == 1
            assert node.lent == {}
            assert counted(node) == there(node)

    asyncio.run(story())


def test_expired_sets_that_share_their_files_are_reclaimed_together_when_only_that_is_enough(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            size = 4 << 20
            node = await w.node("a", capacity=20 << 20)
            await create_set(node, ALICE, "first", big("a", "b", size=size), lease_seconds=10)
            await create_set(node, ALICE, "second", big("a", "b", size=size) | big("c"), lease_seconds=10)
            with pytest.raises(NoSpace):
                await create_set(node, ALICE, "wanted", big("d", "e", "f", size=size))
            w.clock.pass_(20)
            await create_set(node, ALICE, "wanted", big("d", "e", "f", size=size))
            assert len(node.shelf.contents) == 1
            assert counted(node) == there(node)

    asyncio.run(story())


def test_nothing_is_reclaimed_in_vain_when_a_leased_set_holds_the_same_files(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            size = 4 << 20
            node = await w.node("a", capacity=20 << 20)
            await create_set(node, ALICE, "first", big("a", "b", size=size), lease_seconds=10)
            await create_set(node, ALICE, "second", big("a", "b", size=size) | big("c"), lease_seconds=1000)
            w.clock.pass_(20)
            with pytest.raises(NoSpace):
                await create_set(node, ALICE, "wanted", big("d", "e", "f", size=size))
            assert len(node.shelf.contents) == 2

    asyncio.run(story())


def test_a_donor_that_is_known_to_be_damaged_is_not_linked_from(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            first = await create_set(node, ALICE, "first", big("a", "b"))
            path = path_of(node, first.id, "a")
            path.chmod(0o600)
            path.write_bytes(b"z" * BIG)
            path.chmod(0o444)
            assert not (await verify.verify(node, ALICE, parse_ref("first"), False, None)).ok
            second = await create_set(node, ALICE, "second", big("a", "b", "c"))
            assert not one_file(path_of(node, view.id, "a") for view in (first, second))
            assert one_file(path_of(node, view.id, "b") for view in (first, second))
            assert (await verify.verify(node, ALICE, parse_ref("second"), False, None)).ok

    asyncio.run(story())


def test_after_a_reboot_a_file_is_verified_before_it_is_linked(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            first = await create_set(node, ALICE, "first", big("a", "b"))
            path = path_of(node, first.id, "a")
            await w.crash("a")
            path.chmod(0o600)
            path.write_bytes(b"z" * BIG)  # what a power cut may leave
            path.chmod(0o444)
            w.clock.boot_id = "another"
            node = await w.node("a")
            second = await create_set(node, ALICE, "second", big("a", "b", "c"))
            assert not one_file(path_of(node, view.id, "a") for view in (first, second))
            assert one_file(path_of(node, view.id, "b") for view in (first, second))

    asyncio.run(story())


def test_a_file_with_as_many_links_as_there_may_be_is_copied(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            first = await create_set(node, ALICE, "first", big("a", "b"))
            real = os.link

            def full(source, *args, **others):
                if source == "a":
                    raise OSError(31, "Too many links")
                real(source, *args, **others)

            monkeypatch.setattr(links.os, "link", full)
            second = await create_set(node, ALICE, "second", big("a", "b", "c"))
            assert not one_file(path_of(node, view.id, "a") for view in (first, second))
            assert one_file(path_of(node, view.id, "b") for view in (first, second))
            assert counted(node) == there(node)

    asyncio.run(story())


def test_a_crash_in_a_deletion_loses_no_count(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            node, _, _second = await both(w)

            async def crash(*_):
                raise RuntimeError("the machine has gone")

            monkeypatch.setattr(retire.sharing, "leave", crash)
            await retire.give_up(node, next(iter(node.shelf.replicas)))
            await asyncio.gather(*node.flights.values(), return_exceptions=True)
            monkeypatch.undo()
            await w.crash("a")
            node = await w.node("a")
            await recover.afterwards(node, w.findings)
            assert len(node.shelf.contents) == 1
            assert counted(node) == there(node)

    asyncio.run(story())


def test_a_file_is_read_by_whoever_has_it_open_when_the_other_set_goes(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node, _, _second = await both(w)
            found = read.open_now(node, ALICE, parse_ref("second/b"), "b")
            await delete(node, "first")
            with os.fdopen(found.fd, "rb") as file:
                assert file.read() == b"b" * BIG
            read.release(node, found.pin)

    asyncio.run(story())


steps = st.lists(
    st.one_of(
        st.tuples(st.just("create"), st.sets(st.sampled_from("abcdef"), min_size=1, max_size=4)),
        st.tuples(st.just("delete"), st.integers(0, 7)),
        st.tuples(st.just("restart"), st.none()),
    ),
    min_size=2,
    max_size=8,
)


@given(story=steps)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_and_goes_what_is_counted_is_what_lies_there(tmp_path_factory, story):
    async def play():
        async with world(tmp_path_factory.mktemp("w")) as w:
            node = await w.node("a")
            names: list[str] = []
            for number, (verb, what) in enumerate(story):
                if verb == "create":
                    letters = sorted(what)
                    names.append(f"s{number}")
                    await create_set(node, ALICE, names[-1], big(*letters, size=17_000 + number % 2))
                elif verb == "delete" and names:
                    await delete(node, names.pop(what % len(names)))
                elif verb == "restart":
                    await w.crash("a")
                    node = await w.node("a")
                assert counted(node) == there(node)
            assert node.lent == {}
            assert node.space.free("disk") <= node.space.capacity("disk") - counted(node)

    asyncio.run(play())


def test_knowing_what_a_family_is_survives_a_restart(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node, *_ = await both(w)
            families = {row.family for row in node.shelf.contents.values()}
            assert len(families) == 1
            assert families != {""}
            await w.crash("a")
            node = await w.node("a")
            assert {row.family for row in node.shelf.contents.values()} == families

    asyncio.run(story())


def test_a_lost_database_leaves_the_count_as_it_was_once_the_sets_are_adopted(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node, *_ = await both(w)
            await create_set(node, ALICE, "other", big("x"))
            before = counted(node)
            await w.crash("a")
            for path in (tmp_path / "a").glob("catalog.db*"):
                path.unlink()
            node = await w.node("a")
            await recover.afterwards(node, w.findings)
            assert counted(node) == there(node) == before
            await delete(node, "first")
            assert counted(node) == there(node)

    asyncio.run(story())


def test_a_directory_that_is_lost_leaves_what_it_was_charged_for_to_the_others(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node, first, _ = await both(w)
            content = node.shelf.replicas[first.id].content
            await w.crash("a")
            path = tmp_path / "a" / "disk" / "contents" / content
            for folder in (path / "data", path):
                folder.chmod(0o700)
            shutil.rmtree(path)
            node = await w.node("a")
            await recover.afterwards(node, w.findings)
            stable = [row.physical for row in node.shelf.contents.values() if row.state == "STABLE"]
            assert sum(stable) == there(node)

    asyncio.run(story())


def test_a_copy_in_memory_counts_with_all_of_its_files(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", memory=True)
            await create_set(node, ALICE, "first", big("a", "b"))
            second = await create_set(node, ALICE, "second", big("b", "c"), tier="memory")
            on_disk, in_memory = (node.shelf.contents[(second.content, tier)] for tier in ("disk", "memory"))
            assert in_memory.physical - on_disk.physical == capacity.on_partition(BIG)
            assert (in_memory.family, bool(on_disk.family)) == ("", True)

    asyncio.run(story())


def test_a_set_whose_manifest_is_damaged_can_be_deleted_and_the_count_stays_right(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node, first, _ = await both(w)
            (node.stores["disk"].home(first.content) / "manifest").write_bytes(b"nonsense")
            assert not (await verify.verify(node, ALICE, parse_ref("first"), False, None)).ok
            await delete(node, "first")
            await asyncio.gather(*[task for key, task in node.flights.items() if key.startswith("recount")])
            assert counted(node) == there(node)

    asyncio.run(story())


def test_what_expired_and_what_is_leased_has_together_is_not_to_be_had(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            await create_set(node, ALICE, "first", big("a", "b"), lease_seconds=10)
            free = node.space._obtainable("disk")
            w.clock.pass_(20)
            assert node.space._obtainable("disk") > free
            await create_set(node, ALICE, "second", big("a", "c"), lease_seconds=1000)
            assert node.space._obtainable("disk") == node.space.free("disk")

    asyncio.run(story())
