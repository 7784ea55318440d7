"""Rows come back as they were put, and refer only to what exists."""

from __future__ import annotations

import pytest
from cached.catalog.errors import CatalogError
from cached.catalog.sqlite import Catalog
from cached.errors import Busy
from cached.leases.deadline import after
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

    samples.write(catalog, put)
    return catalog


def test_every_row_comes_back_as_it_was_put(held):
    def put(tx):
        tx.put_reservation(samples.a_reservation(logical=9, set_id="s", content=CONTENT))
        tx.put_transfer(samples.a_transfer(manifest_ready=True, piece_size=1 << 20, offer=b"\xff"))
        tx.put_meta("key", "value")
        tx.put_check(samples.a_check(reason="damaged: f"))

    samples.write(held, put)

    def got(tx):
        return (
            tx.set(f"{1:032x}"),
            tx.content(CONTENT, "disk"),
            tx.replica(f"{1:032x}"),
            *tx.reservations(),
            tx.transfer("tx"),
            tx.get_meta("key"),
            tx.checks(),
        )

    assert held.read_now(got) == (
        samples.a_set(),
        samples.a_content(),
        samples.a_replica(),
        samples.a_reservation(logical=9, set_id="s", content=CONTENT),
        samples.a_transfer(manifest_ready=True, piece_size=1 << 20, offer=b"\xff"),
        "value",
        [samples.a_check(reason="damaged: f")],
    )


def test_putting_again_replaces_and_deleting_forgets(held):
    samples.write(held, lambda tx: tx.put_check(samples.a_check()))
    changed = samples.a_set(revision=2, status="withdrawn", lease=after(NOW, 5.5), local=False)

    samples.write(held, lambda tx: tx.put_set(changed))
    assert held.read_now(lambda tx: tx.sets()) == [changed]
    assert held.read_now(lambda tx: tx.replica(changed.id)) == samples.a_replica()

    def forget(tx):
        tx.delete_replica(changed.id)
        tx.delete_content(CONTENT, "disk")
        tx.delete_set(changed.id)

    samples.write(held, forget)
    assert held.read_now(lambda tx: [*tx.sets(), *tx.contents(), *tx.replicas(), *tx.checks()]) == []


@pytest.mark.parametrize(
    "dangling",
    [
        lambda tx: tx.put_replica(samples.a_replica(2)),
        lambda tx: tx.put_replica(samples.a_replica(content="d" * 64)),
        lambda tx: tx.put_transfer(samples.a_transfer(set_id="unknown")),
        lambda tx: tx.put_check(samples.a_check("d" * 64)),
        lambda tx: tx.delete_content(CONTENT, "disk"),
        lambda tx: tx.delete_set(f"{1:032x}"),
        lambda tx: tx.put_content(samples.a_content("d" * 64, tier="tape")),
        lambda tx: tx.put_content(samples.a_content(bytes=-1)),
    ],
)
def test_a_row_that_would_break_a_reference_or_a_rule_is_refused(held, dangling):
    with pytest.raises(CatalogError, match="constraint failed"):
        samples.write(held, dangling)
    assert held.read_now(lambda tx: tx.replicas()) == [samples.a_replica()]


def test_deleting_forgets_reservations_and_transfers(held):
    samples.write(held, lambda tx: tx.put_reservation(samples.a_reservation()))
    samples.write(held, lambda tx: tx.put_transfer(samples.a_transfer()))
    assert held.read_now(lambda tx: len(tx.reservations() + tx.transfers())) == 2
    with pytest.raises(CatalogError):
        samples.write(held, lambda tx: (tx.delete_replica(f"{1:032x}"), tx.delete_set(f"{1:032x}")))
    samples.write(held, lambda tx: tx.delete_reservation("tx"))
    samples.write(held, lambda tx: tx.delete_transfer("tx"))
    assert held.read_now(lambda tx: tx.reservations() + tx.transfers()) == []


def test_what_is_going_never_comes_back_before_it_is_gone(held):
    samples.write(held, lambda tx: tx.put_replica(samples.a_replica(state="GOING")))
    samples.write(held, lambda tx: tx.put_content(samples.a_content(state="GOING")))
    with pytest.raises(Busy, match="GOING"):
        samples.write(held, lambda tx: tx.put_replica(samples.a_replica()))
    with pytest.raises(Busy, match="GOING"):
        samples.write(held, lambda tx: tx.put_content(samples.a_content()))

    def again(tx):
        tx.delete_replica(f"{1:032x}")
        tx.delete_content(CONTENT, "disk")
        tx.put_content(samples.a_content())
        tx.put_replica(samples.a_replica())

    samples.write(held, again)
    assert held.read_now(lambda tx: tx.replicas()) == [samples.a_replica()]


def test_a_reader_cannot_write(held):
    with pytest.raises(CatalogError, match="readonly"):
        held.read_now(lambda tx: tx.put_set(samples.a_set(3)))
