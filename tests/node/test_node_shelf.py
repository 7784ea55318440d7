"""The shelf: durable first, then visible; nothing is lost between two who change the same row."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from cached.catalog.rows import ContentRow
from cached.errors import Busy
from cached.node.shelf import Changes, Shelf
from tests.node.fakes import NOTHING, caller, create_set, left_behind, world

ALICE = caller("alice")


def run(story):
    asyncio.run(story)


def test_what_the_shelf_shows_is_what_a_new_shelf_reads_back(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            view = await create_set(node, ALICE, "nr", {"f": b"x" * 100})
            again = Shelf(catalog=node.catalog)
            again.load()
            assert again.known == node.shelf.known
            assert again.replicas == node.shelf.replicas
            assert again.contents == node.shelf.contents
            assert [known.record.id for known in again.named("nr")] == [view.id]
            assert again.sets_of_content(view.content) == {view.id}

    run(story())


def test_changes_that_cannot_be_made_durable_are_not_shown(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            row = ContentRow(content="c" * 64, tier="disk", bytes=1, physical=1, state="STABLE")

            def fail(_tx):
                raise Busy("no")

            with pytest.raises(Busy):
                await node.shelf.keep(Changes(contents=(row,), also=fail))
            assert node.shelf.contents == {}
            assert left_behind(node) == NOTHING

    run(story())


def test_a_cancelled_change_is_either_nowhere_or_everywhere(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            row = ContentRow(content="c" * 64, tier="disk", bytes=1, physical=1, state="STABLE")
            task = asyncio.create_task(node.shelf.keep(Changes(contents=(row,))))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (list(node.shelf.contents.values()) == [row]) is (
                node.catalog.read_now(lambda tx: tx.contents()) == [row]
            )

    run(story())


def test_two_edits_of_one_row_at_the_same_time_both_count(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            view = await create_set(node, ALICE, "nr", {"f": b"x"})
            replace = msgspec.structs.replace
            await asyncio.gather(
                *(
                    node.shelf.keep(
                        Changes(
                            edits=(
                                (view.id, lambda row: replace(row, granted_seconds=row.granted_seconds + 1)),
                            )
                        )
                    )
                    for _ in range(20)
                )
            )
            assert node.shelf.replicas[view.id].granted_seconds == 86_400 + 20
            assert node.catalog.read_now(lambda tx: tx.replica(view.id)) == node.shelf.replicas[view.id]

    run(story())


def test_editing_a_row_that_is_gone_says_so(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            with pytest.raises(Busy):
                await node.shelf.keep(Changes(edits=(("0" * 32, lambda row: row),)))

    run(story())


def test_watchers_hear_of_every_set_touched(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            heard = []
            node.shelf.watchers.append(heard.append)
            view = await create_set(node, ALICE, "nr", {"f": b"x"})
            assert heard == [{view.id}]
            await node.shelf.keep(Changes(edits=((view.id, lambda row: row),)))
            assert heard[1:] == [{view.id}]

    run(story())
