"""Copies of objects, what was written for scopes, and the ledger: rows come back, and charges add up."""

from __future__ import annotations

import math
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from cached.catalog.errors import CatalogError
from cached.catalog.sqlite import Catalog
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.catalog import samples
from tests.catalog.samples import FakeClock, a_charge, a_scoped, an_object


@pytest.fixture
def catalog(tmp_path):
    opened = Catalog.open(tmp_path / "catalog.db", FakeClock())
    yield opened
    assert opened.check() == []
    opened.close()


def test_copies_of_objects_come_back_are_replaced_and_forgotten(catalog):
    samples.write(catalog, lambda tx: [tx.put_object(an_object(name)) for name in ("b", "a")])
    samples.write(catalog, lambda tx: tx.put_object(an_object("b", entry=b"new")))
    assert catalog.read_now(lambda tx: tx.objects()) == [an_object("a"), an_object("b", entry=b"new")]
    samples.write(catalog, lambda tx: (tx.delete_object("a"), tx.delete_object("unknown")))
    assert catalog.read_now(lambda tx: tx.objects()) == [an_object("b", entry=b"new")]


def scoped(owner, scope, after=("", ""), most=10):
    return lambda tx: tx.scoped(owner, scope, after, most)


def test_what_was_written_for_a_scope_is_its_owners(catalog):
    rows = [a_scoped("x"), a_scoped("y"), a_scoped("x", owner="bob"), a_scoped("x", scope="run-2")]
    samples.write(catalog, lambda tx: [tx.put_scoped(row) for row in rows])
    assert catalog.read_now(scoped("alice", "run-1")) == rows[:2]
    assert catalog.read_now(scoped("bob", "run-2")) == []
    assert catalog.read_now(lambda tx: tx.is_scoped("alice", "run-1", "b", "x"))
    assert not catalog.read_now(lambda tx: tx.is_scoped("bob", "run-1", "b", "y"))
    samples.write(catalog, lambda tx: tx.put_scoped(a_scoped("y", generation=8)))
    samples.write(catalog, lambda tx: tx.delete_scoped("alice", "run-1", "b", "x"))
    assert catalog.read_now(scoped("alice", "run-1")) == [a_scoped("y", generation=8)]
    assert catalog.read_now(scoped("bob", "run-1")) == [rows[2]]


def test_what_was_written_for_a_scope_comes_in_pages_in_order_of_buckets_and_names(catalog):
    rows = [a_scoped(name, bucket=bucket) for bucket in ("a", "b") for name in ("x", "y", "z")]
    samples.write(catalog, lambda tx: [tx.put_scoped(row) for row in reversed(rows)])
    assert catalog.read_now(scoped("alice", "run-1", most=2)) == rows[:2]
    assert catalog.read_now(scoped("alice", "run-1", ("a", "y"), 3)) == rows[2:5]
    assert catalog.read_now(scoped("alice", "run-1", ("b", "z"))) == []


def test_charges_add_up_hour_by_hour_and_in_sums(catalog):
    one = a_charge(10, byte_seconds=1.5, saved_bytes=2, saved_operations=3, spent_bytes=4, spent_operations=5)
    samples.write(catalog, lambda tx: tx.charge(one, one))
    samples.write(catalog, lambda tx: tx.charge(a_charge(11, byte_seconds=0.25), a_charge(11, scope="s")))
    twice = a_charge(
        10, byte_seconds=3.0, saved_bytes=4, saved_operations=6, spent_bytes=8, spent_operations=10
    )
    assert catalog.read_now(lambda tx: tx.ledger()) == [
        twice,
        a_charge(11, byte_seconds=0.25),
        a_charge(11, scope="s"),
    ]
    assert catalog.read_now(lambda tx: tx.ledger(11)) == [
        a_charge(11, byte_seconds=0.25),
        a_charge(11, scope="s"),
    ]
    (both, scoped) = catalog.read_now(lambda tx: tx.taken())
    assert (both.hour, both.byte_seconds, both.spent_operations) == (10, 3.25, 10)
    assert scoped == a_charge(11, scope="s")


def test_sums_are_of_one_user_and_one_scope_when_these_are_named(catalog):
    rows = [a_charge(owner=owner, scope=scope) for owner in ("alice", "bob") for scope in ("", "s")]
    samples.write(catalog, lambda tx: tx.charge(*rows))
    assert catalog.read_now(lambda tx: tx.taken()) == rows
    assert catalog.read_now(lambda tx: tx.taken(owner="bob")) == rows[2:]
    assert catalog.read_now(lambda tx: tx.taken(scope="")) == rows[::2]
    assert catalog.read_now(lambda tx: tx.taken(owner="alice", scope="s")) == rows[1:2]
    assert catalog.read_now(lambda tx: tx.taken(rows[0].hour + 1)) == []


def test_what_is_long_past_is_forgotten(catalog):
    samples.write(catalog, lambda tx: tx.charge(a_charge(1), a_charge(2), a_charge(3)))
    samples.write(catalog, lambda tx: tx.forget_taken(2))
    assert [row.hour for row in catalog.read_now(lambda tx: tx.ledger())] == [2, 3]


def test_a_charge_of_no_known_kind_is_refused_and_charges_nothing(catalog):
    with pytest.raises(CatalogError, match="constraint failed"):
        samples.write(catalog, lambda tx: tx.charge(a_charge(), a_charge(kind="car")))
    assert catalog.read_now(lambda tx: tx.ledger()) == []


def test_charging_nothing_changes_nothing(catalog):
    samples.write(catalog, lambda tx: tx.charge())
    assert catalog.read_now(lambda tx: (tx.ledger(), tx.taken())) == ([], [])


_charges = st.lists(
    st.builds(
        a_charge,
        hour=st.integers(0, 3),
        owner=st.sampled_from(["alice", "bob"]),
        kind=st.sampled_from(["set", "object"]),
        tier=st.sampled_from(["disk", "memory"]),
        byte_seconds=st.floats(0, 1e15),
        saved_bytes=st.integers(0, 2**50),
        spent_operations=st.integers(0, 1000),
    ),
    max_size=20,
)


@settings(deadline=None, max_examples=25)
@given(_charges, st.integers(0, 4))
def test_nothing_is_lost_or_counted_twice(charges, since):
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Catalog.open(Path(folder) / "c.db", FakeClock())) as catalog,
    ):
        samples.write(catalog, lambda tx: tx.charge(*charges[:10]))
        samples.write(catalog, lambda tx: tx.charge(*charges[10:]))
        wanted = [row for row in charges if row.hour >= since]
        for rows in catalog.read_now(lambda tx: (tx.ledger(since), tx.taken(since))):
            assert sum(row.saved_bytes for row in rows) == sum(row.saved_bytes for row in wanted)
            assert sum(row.spent_operations for row in rows) == sum(row.spent_operations for row in wanted)
            assert math.isclose(
                math.fsum(row.byte_seconds for row in rows), math.fsum(row.byte_seconds for row in wanted)
            )
            assert len({(row.hour, row.owner, row.kind, row.tier) for row in rows}) == len(rows)
