"""The index of copies is written down bit by bit, only what changed, whatever the catalog does meanwhile."""

import asyncio

import msgspec
from cached.errors import NoSpace
from cached.node import object_index
from cached.objects.entry import Entry, Held, Row
from cached.objects.key import ObjectKey
from tests.node.fakes import world


def keep(node, number):
    entry = Entry(
        name=f"copy{number}",
        key=ObjectKey("bucket", f"o{number}", 1),
        block=None,
        size=10,
        crc32c=1,
        scope="",
        users=("ada",),
        source="origin",
        last_used=1.0,
        frequency=1,
        boot="boot",
    )
    node.objects.tiers.index.keep(entry, "disk", Held(f"copy{number}#", 4096))
    return entry


def spied(node, monkeypatch):
    """Note how many copies each transaction writes down."""
    sizes, real = [], node.catalog.write

    async def write(work):
        sizes.append(len(work.args[0]))
        return await real(work)

    monkeypatch.setattr(node.catalog, "write", write)
    return sizes


async def written(node):
    rows = await node.catalog.read(lambda tx: tx.objects())
    return {row.name: msgspec.json.decode(row.entry, type=Row) for row in rows}


def test_only_what_changed_is_written_down_and_never_much_at_once(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", object_disk=20 << 20)
            index = node.objects.tiers.index
            entries = [keep(node, number) for number in range(2 * object_index.AT_ONCE + 50)]
            sizes = spied(node, monkeypatch)
            await object_index.write(node)
            assert sorted(sizes) == [50, object_index.AT_ONCE, object_index.AT_ONCE]
            assert len(await written(node)) == len(entries)
            sizes.clear()
            await object_index.write(node)
            assert sizes == []
            index.touch(entries[3], "bob", 5.0)
            node.objects.tiers.verified(entries[4])
            index.detach(entries[5], "disk", remember=False)
            await node.objects.tiers.clear(lambda one: one is entries[3], "cleared", "ada")
            await object_index.write(node)
            assert sizes == [3]
            there = await written(node)
            assert (there["copy3"].users, there["copy3"].frequency) == (("bob",), 2)
            assert there["copy4"].boot == node.objects.tiers.boot
            assert "copy5" not in there

    asyncio.run(story())


def test_rows_that_are_no_longer_true_go_after_a_start_and_the_others_are_not_written_again(
    tmp_path, monkeypatch
):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", object_disk=20 << 20)
            keep(node, 1)
            await object_index.write(node)
            node.objects.tiers.index.take_changed()
            sizes = spied(node, monkeypatch)
            node.objects.tiers.index._entries.clear()
            await object_index.load(node)
            await object_index.write(node)
            assert sizes == [1]
            assert await written(node) == {}

    asyncio.run(story())


def test_a_catalog_that_cannot_be_written_is_counted_and_tried_again(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", object_disk=20 << 20)
            keep(node, 1)
            real, errors = node.catalog.write, [NoSpace("the disk is full"), RuntimeError("broken")]

            async def write(work):
                if errors:
                    raise errors.pop(0)
                return await real(work)

            monkeypatch.setattr(node.catalog, "write", write)
            monkeypatch.setattr(object_index, "EVERY", 0.01)
            loop = asyncio.create_task(object_index.run(node))
            while "copy1" not in await written(node):
                assert not loop.done()
                await asyncio.sleep(0.01)
            counts = node.counters.snapshot()
            assert (counts["objects.index_failed"], counts["background_failed"]) == (1, 1)
            keep(node, 2)
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
            assert "copy2" in await written(node)

    asyncio.run(story())
