"""Rows come back as they were put, and refer only to what exists."""

from __future__ import annotations

import pytest
from cached.catalog.errors import CatalogError
from cached.catalog.rows import Usage
from cached.catalog.sqlite import Catalog
from cached.leases.deadline import after
from msgspec.structs import replace
from tests.catalog import samples
from tests.catalog.samples import CONTENT, NOW, FakeClock


@pytest.fixture
def catalog(tmp_path):
    opened = Catalog.open(tmp_path / "catalog.db", FakeClock())
    yield opened
    assert opened.check() == []
    opened.close()


@pytest.fixture
def held(catalog):
    """A catalog that knows one set, its content and its replica."""

    def put(tx):
        tx.put_set(samples.a_set())
        tx.put_content(samples.a_content())
        tx.put_replica(samples.a_replica())

    catalog.write_now(put)
    return catalog


def test_every_row_comes_back_as_it_was_put(held):
    def put(tx):
        tx.put_reservation(samples.a_reservation(logical=9, set_id="s", content=CONTENT))
        tx.put_transfer(samples.a_transfer(manifest_ready=True, piece_size=1 << 20, offer=b"\xff"))
        tx.put_pin(samples.a_pin())
        tx.put_rejection(samples.a_rejection())
        tx.confirm(f"{1:032x}", "node-3")
        tx.put_meta("key", "value")

    held.write_now(put)

    def got(tx):
        return (
            tx.set(f"{1:032x}"),
            tx.content(CONTENT, "disk"),
            tx.replica(f"{1:032x}"),
            tx.reservation("tx"),
            tx.transfer("tx"),
            tx.pins(),
            tx.rejection(f"{1:032x}", "node-2"),
            tx.confirmations(f"{1:032x}"),
            tx.get_meta("key"),
        )

    assert held.read_now(got) == (
        samples.a_set(),
        samples.a_content(),
        samples.a_replica(),
        samples.a_reservation(logical=9, set_id="s", content=CONTENT),
        samples.a_transfer(manifest_ready=True, piece_size=1 << 20, offer=b"\xff"),
        [samples.a_pin()],
        samples.a_rejection(),
        frozenset({"node-3"}),
        "value",
    )


def test_putting_again_replaces_and_deleting_forgets(held):
    changed = samples.a_set(revision=2, status="withdrawn", lease=after(NOW, 5.5), local=False)

    def change(tx):
        tx.put_set(changed)
        tx.put_pin(samples.a_pin())
        tx.put_pin(samples.a_pin())

    held.write_now(change)
    assert held.read_now(lambda tx: tx.sets()) == [changed]
    assert held.read_now(lambda tx: tx.replica(changed.id)) == samples.a_replica()
    assert held.read_now(lambda tx: tx.pins_of(CONTENT, "disk")) == [samples.a_pin()]

    def forget(tx):
        tx.delete_pin(samples.a_pin())
        tx.delete_replica(changed.id)
        tx.delete_content(CONTENT, "disk")
        tx.delete_set(changed.id)

    held.write_now(forget)
    assert held.read_now(lambda tx: [*tx.sets(), *tx.contents(), *tx.replicas(), *tx.pins()]) == []


@pytest.mark.parametrize(
    "dangling",
    [
        lambda tx: tx.put_replica(samples.a_replica(2)),
        lambda tx: tx.put_replica(samples.a_replica(content="d" * 64)),
        lambda tx: tx.put_pin(samples.a_pin(tier="memory")),
        lambda tx: tx.put_rejection(samples.a_rejection(set_id="unknown")),
        lambda tx: tx.put_transfer(samples.a_transfer(set_id="unknown")),
        lambda tx: tx.confirm("unknown", "node"),
        lambda tx: tx.delete_content(CONTENT, "disk"),
        lambda tx: tx.delete_set(f"{1:032x}"),
        lambda tx: tx.put_content(samples.a_content(state="LOST")),
        lambda tx: tx.put_content(samples.a_content(bytes=-1)),
    ],
)
def test_a_row_that_would_break_a_reference_or_a_rule_is_refused(held, dangling):
    with pytest.raises(CatalogError, match="constraint failed"):
        held.write_now(dangling)
    assert held.read_now(lambda tx: tx.replicas()) == [samples.a_replica()]


def test_a_pinned_content_cannot_be_forgotten(held):
    held.write_now(lambda tx: tx.put_pin(samples.a_pin()))
    held.write_now(lambda tx: tx.delete_replica(f"{1:032x}"))
    with pytest.raises(CatalogError):
        held.write_now(lambda tx: tx.delete_content(CONTENT, "disk"))


def test_forgetting_a_set_forgets_its_rejections_and_confirmations(held):
    def put(tx):
        tx.put_set(samples.a_set(2))
        tx.put_rejection(samples.a_rejection(set_id=f"{2:032x}"))
        tx.confirm(f"{2:032x}", "node")
        tx.delete_set(f"{2:032x}")

    held.write_now(put)
    assert held.read_now(lambda tx: (tx.rejections(), tx.confirmations(f"{2:032x}"))) == ([], frozenset())


def test_a_name_stands_for_the_live_set_made_here_else_for_the_highest_revision(catalog):
    far = samples.a_set(1, name="nr", local=False, revision=9)
    near = samples.a_set(2, name="nr", local=True, revision=1)
    gone = samples.a_set(3, name="nr", local=True, revision=99, status="withdrawn")
    dead = samples.a_set(4, name="nr", local=True, revision=99, status="deleted")
    other = samples.a_set(5, name="nr", owner="bob")
    for row in (far, near, gone, dead, other):
        catalog.write_now(lambda tx, row=row: tx.put_set(row))
    assert catalog.read_now(lambda tx: tx.current("alice", "nr")) == near
    assert catalog.read_now(lambda tx: tx.current("alice", "other")) is None
    assert catalog.read_now(lambda tx: tx.sets_named("nr")) == [far, near, gone, other]
    catalog.write_now(lambda tx: tx.delete_set(near.id))
    assert catalog.read_now(lambda tx: tx.current("alice", "nr")) == far


def test_a_prefix_finds_the_sets_whose_id_starts_with_it(catalog):
    rows = [
        samples.a_set(i, id=text * 4)
        for i, text in enumerate(["abcdef0f", "abcdef10", "abcdefff", "b0000000"])
    ]
    for row in [*rows, samples.a_set(9, id="abcdef11" * 4, status="deleted")]:
        catalog.write_now(lambda tx, row=row: tx.put_set(row))
    assert catalog.read_now(lambda tx: tx.sets_with_prefix("abcdef")) == rows[:3]
    assert catalog.read_now(lambda tx: tx.sets_with_prefix("abcdef1")) == rows[1:2]
    assert catalog.read_now(lambda tx: tx.sets_with_prefix("abcdefff")) == rows[2:3]
    assert catalog.read_now(lambda tx: tx.sets_with_prefix("c")) == []


def test_usage_counts_each_byte_once(held):
    def put(tx):
        tx.put_content(samples.a_content("d" * 64, state="COMING", physical=1))
        tx.put_content(samples.a_content("e" * 64, state="GOING", physical=20))
        tx.put_content(samples.a_content("e" * 64, tier="memory", physical=300))
        tx.put_reservation(samples.a_reservation(bytes=5000, logical=40))
        tx.put_reservation(samples.a_reservation("other", bytes=7, logical=2, owner="bob", tier="memory"))

    held.write_now(put)
    assert held.read_now(lambda tx: tx.usage("disk")) == Usage(reserved=5000, committed=8192, going=20)
    assert held.read_now(lambda tx: tx.usage("memory")) == Usage(reserved=7, committed=300, going=0)
    assert held.read_now(lambda tx: tx.owner_bytes("alice")) == 50
    assert held.read_now(lambda tx: tx.owner_bytes("bob")) == 2
    held.write_now(lambda tx: tx.put_replica(samples.a_replica(state="GOING")))
    assert held.read_now(lambda tx: tx.owner_bytes("alice")) == 40


def test_a_read_is_noted_and_never_taken_back(held):
    held.write_now(lambda tx: tx.touch_replica(f"{1:032x}", 50.0))
    held.write_now(lambda tx: tx.touch_replica(f"{1:032x}", 40.0))
    assert held.read_now(lambda tx: tx.replica(f"{1:032x}")) == replace(
        samples.a_replica(), last_read_wall=50.0
    )
    assert held.read_now(lambda tx: tx.replicas_of(CONTENT, "disk")[0].last_read_wall) == 50.0


def test_a_reader_cannot_write(held):
    with pytest.raises(CatalogError, match="readonly"):
        held.read_now(lambda tx: tx.put_set(samples.a_set(3)))
