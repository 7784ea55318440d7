"""One user's open copies leave room for the others', and what is open keeps its room whatever its reader says."""

from __future__ import annotations

import mmap
import os

import pytest
from cached.addresses import parse
from cached.objects.lent import AT_ONCE, LEAST, Lent
from cached.objects.read import open_now, open_object
from tests.objects.cache_kit import MB, ada, bob
from tests.objects.shelves import KB, Shelves, content, waited
from tests.objects.test_read import scene

SIZE = LEAST


def nobody(_name: str) -> bool:
    return False


def everybody(_name: str) -> bool:
    return True


def test_a_user_may_have_half_open_and_besides_it_one_more_of_any_size():
    lent, capacity = Lent(), 8 * SIZE
    for number in range(5):
        assert lent.allows("ada", f"o{number}", SIZE, capacity, nobody)
        lent.lend("ada", f"o{number}", SIZE)
    assert not lent.allows("ada", "o5", SIZE, capacity, nobody)
    assert lent.allows("ada", "o4", SIZE, capacity, nobody), "that one is open already"
    assert lent.allows("ada", "tiny", 100, capacity, nobody)
    assert lent.allows("bob", "o5", SIZE, capacity, nobody)
    assert Lent().allows("ada", "huge", 7 * SIZE, capacity, nobody)


def test_what_is_closed_counts_until_it_is_seen_to_be():
    lent, capacity = Lent(), 2 * SIZE
    for name in ("a", "b"):
        lent.lend("ada", name, SIZE)
        lent.close("ada", name)
    assert not lent.allows("ada", "c", SIZE, capacity, everybody)
    assert lent.held("ada") == 2 * SIZE
    assert lent.allows("ada", "c", SIZE, capacity, nobody)
    assert lent.held("ada") == 0


def test_looking_in_the_background_forgets_what_is_closed_and_keeps_what_is_open_or_pinned():
    lent = Lent()
    for name in ("pinned", "open", "closed"):
        lent.lend("ada", name, SIZE)
        if name != "pinned":
            lent.close("ada", name)
    assert lent.unproven() == ["open", "closed"]
    lent.proven(["open", "closed"], {"open"})
    assert lent.held("ada") == 2 * SIZE
    assert lent.unproven() == ["open"]


def test_what_stays_open_does_not_hide_what_is_closed():
    lent, capacity = Lent(), 2 * AT_ONCE * SIZE
    kept = {f"kept{number}" for number in range(AT_ONCE)}
    for name in (*sorted(kept), "closed1", "closed2"):
        lent.lend("ada", name, SIZE)
        lent.close("ada", name)
    assert not lent.allows("ada", "new", SIZE, capacity, kept.__contains__)
    assert lent.allows("ada", "new", SIZE, capacity, kept.__contains__)
    assert lent.held("ada") == AT_ONCE * SIZE
    lent.proven(lent.unproven(), kept)
    assert lent.held("ada") == AT_ONCE * SIZE


def names(count: int) -> list[str]:
    return [f"gs://genomes/chr{number}" for number in range(count)]


async def opened(cache, reader, address):
    """Open as a local user does, and return the descriptor and the pin."""
    found = await open_object(cache, reader, parse(address))
    return found.fd, "" if found.entry is None else cache.pin(found.entry, reader.user)


def test_who_keeps_much_open_is_read_through_and_the_others_find_room(tmp_path):
    async def body(made, cache):
        for number in range(24):
            made.origin.store("genomes", f"chr{number}", os.urandom(MB // 2))
        held = [await opened(cache, ada(), address) for address in names(24)]
        kept = [fd for fd, _ in held if fd >= 0]
        assert len(kept) == 9, "half of 8 MB, and one"
        assert cache.counts["objects.held_too_much"] == 15
        assert open_now(cache, ada(), parse("gs://genomes/chr20")) is None
        for address in names(24)[10:16]:
            fd, pin = await opened(cache, bob(), address)
            assert fd >= 0
            os.close(fd)
            cache.unpin(pin)
        for fd, pin in held:
            if fd >= 0:
                os.close(fd)
                cache.unpin(pin)
        fd, pin = await opened(cache, ada(), "gs://genomes/chr20")
        assert fd >= 0
        os.close(fd)
        cache.unpin(pin)

    scene(tmp_path, body, memory=0, disk=8 * MB)


def test_descriptors_kept_without_a_pin_count_as_well(tmp_path):
    async def body(made, cache):
        kept = []
        for number in range(24):
            made.origin.store("genomes", f"chr{number}", os.urandom(MB // 2))
            fd, pin = await opened(cache, ada(), f"gs://genomes/chr{number}")
            if fd >= 0:
                kept.append(fd)
                cache.unpin(pin)
        assert len(kept) == 9
        await cache.reap()
        assert cache.lent.held("ada") == 9 * MB // 2
        for fd in kept:
            os.close(fd)
        await cache.reap()
        assert cache.lent.held("ada") == 0

    scene(tmp_path, body, memory=0, disk=8 * MB)


@pytest.fixture
def shelves(tmp_path) -> Shelves:
    return Shelves(tmp_path, None, 256 * KB)


@waited
async def test_a_copy_that_somebody_has_open_without_a_pin_is_not_what_goes(shelves):
    await shelves.fetch("a", 100 * KB)
    await shelves.fetch("b", 100 * KB)
    copy = shelves.open("a")
    shelves.tiers.release(copy.entry)
    assert await shelves.fetch("c", 100 * KB) is not None
    assert (shelves.where("a"), shelves.where("b")) == ({"disk"}, set())
    assert await shelves.fetch("d", 200 * KB) is None
    assert shelves.where("a") == {"disk"}
    os.close(copy.fd)
    await shelves.tiers.reap()
    assert await shelves.fetch("d", 200 * KB) is not None
    assert shelves.where("a") == set()
    shelves.check_idle()


@waited
async def test_memory_mapped_from_a_copy_takes_its_room_after_the_copy_is_gone(shelves):
    await shelves.fetch("a", 200 * KB)
    copy = shelves.open("a")
    mapped = mmap.mmap(copy.fd, 200 * KB, prot=mmap.PROT_READ)
    shelves.close(copy)
    await shelves.tiers.clear(lambda _: True, "cleared")
    await shelves.tiers.reap()
    assert shelves.taken("disk") == shelves.tiers.taken("disk") == 200 * KB
    assert await shelves.fetch("b", 100 * KB) is None
    assert mapped[:] == content("a", 200 * KB)
    mapped.close()
    await shelves.tiers.reap()
    assert shelves.tiers.taken("disk") == 0
    assert await shelves.fetch("b", 100 * KB) is not None
    shelves.check_idle()


def test_many_small_copies_count_as_much_as_few_large_ones():
    lent, size, capacity = Lent(), 60 * KB, 6000 * KB
    held = 0
    while lent.allows("ada", f"o{held}", size, capacity, everybody):
        lent.lend("ada", f"o{held}", size)
        lent.close("ada", f"o{held}")
        held += 1
    assert held == 51
    assert lent.allows("bob", "o0", size, capacity, everybody)


def test_a_user_s_opens_are_counted_however_small_and_however_often_the_same():
    lent, capacity = Lent(most=3), 1000 * SIZE
    for _ in range(3):
        assert lent.allows("ada", "o", 100, capacity, nobody)
        lent.lend("ada", "o", 100)
    assert not lent.allows("ada", "o", 100, capacity, nobody)
    assert lent.allows("bob", "o", 100, capacity, nobody)
    lent.close("ada", "o")
    assert lent.allows("ada", "o", 100, capacity, nobody)
