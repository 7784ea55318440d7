"""Opening: new, upgraded, too new, damaged, lost, and after a reboot."""

from __future__ import annotations

import sqlite3
import stat

import pytest
from cached.catalog import migrations, tables
from cached.catalog.errors import CatalogLost, CatalogTooNew
from cached.catalog.migrations import MIGRATIONS, Migration
from cached.catalog.sqlite import Catalog, set_aside
from cached.errors import NoSpace
from cached.leases.deadline import after, age, seconds_left
from sqlalchemy import create_engine, inspect
from tests.catalog import samples
from tests.catalog.samples import NOW, FakeClock


@pytest.fixture
def path(tmp_path):
    return tmp_path / "catalog.db"


def fill(path, clock=None, sets=50):
    catalog = Catalog.open(path, clock or FakeClock())

    def put(tx):
        tx.put_content(samples.a_content())
        for number in range(1, sets + 1):
            tx.put_set(samples.a_set(number))
            tx.put_replica(samples.a_replica(number))
        tx.mark_reconciled()

    samples.write(catalog, put)
    catalog.close()


def test_a_new_catalog_is_fresh_until_it_was_reconciled(path):
    for _ in range(2):
        catalog = Catalog.open(path, FakeClock())
        assert catalog.fresh
        assert not catalog.new_boot
        assert catalog.clock_trusted
        catalog.close()
    fill(path)
    catalog = Catalog.open(path, FakeClock())
    assert not catalog.fresh
    catalog.close()


def test_only_the_daemon_may_read_the_file(path):
    fill(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_connections_are_durable_and_check_references(path):
    catalog = Catalog.open(path, FakeClock())

    def pragmas(tx):
        return [
            tx._connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]

    assert samples.write(catalog, pragmas) == ["wal", 2, 1]
    assert catalog.read_now(pragmas) == ["wal", 2, 1]
    catalog.close()


def test_the_migrations_lead_to_the_tables_that_the_code_knows(path):
    migrations.migrate(path)
    found = inspect(create_engine(f"sqlite:///{path}"))
    assert set(found.get_table_names()) == set(tables.METADATA.tables)
    for name, table in tables.METADATA.tables.items():
        columns = [(c["name"], str(c["type"])) for c in found.get_columns(name)]
        expected = [(c.name, str(c.type).replace("FLOAT", "REAL")) for c in table.columns]
        assert columns == expected, name
        assert found.get_pk_constraint(name)["constrained_columns"] == [c.name for c in table.primary_key], (
            name
        )


def test_the_steps_are_numbered_without_gaps():
    assert [step.number for step in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))


def test_an_upgrade_keeps_a_copy_of_what_was(path):
    fill(path)
    grow = Migration(len(MIGRATIONS) + 1, "a note on sets", ("ALTER TABLE sets ADD COLUMN note TEXT",))
    migrations.migrate(path, (*MIGRATIONS, grow))
    copy = path.with_name(f"catalog.db.schema-{len(MIGRATIONS)}")
    for file, columns in ((copy, 15), (path, 16)):
        connection = sqlite3.connect(file)
        assert len(connection.execute("PRAGMA table_info(sets)").fetchall()) == columns
        assert connection.execute("SELECT count(*) FROM sets").fetchone() == (50,)
        connection.close()


def test_a_step_that_fails_changes_nothing(path):
    fill(path)
    bad = Migration(
        len(MIGRATIONS) + 1, "broken", ("ALTER TABLE sets ADD COLUMN note TEXT", "DROP TABLE unknown")
    )
    with pytest.raises(sqlite3.OperationalError):
        migrations.migrate(path, (*MIGRATIONS, bad))
    dangling = Migration(len(MIGRATIONS) + 1, "dangling", ("DELETE FROM sets",))
    with pytest.raises(CatalogLost, match="dangling"):
        migrations.migrate(path, (*MIGRATIONS, dangling))
    catalog = Catalog.open(path, FakeClock())
    assert len(catalog.read_now(lambda tx: tx.sets())) == 50
    catalog.close()


def test_a_newer_schema_is_refused_and_left_alone(path):
    fill(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(CatalogTooNew) as refused:
        Catalog.open(path, FakeClock())
    assert refused.value.details == {"schema": 99, "known": len(MIGRATIONS)}
    assert path.read_bytes() == before


def scribble(path):
    data = bytearray(path.read_bytes())
    for page in range(4096, len(data), 4096):
        data[page : page + 64] = b"\xa5" * 64
    path.write_bytes(data)


def drop_a_table(path):
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE transfers")
    connection.close()


def only_the_log_is_left(path):
    path.with_name("catalog.db-wal").write_bytes(path.read_bytes())
    path.unlink()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"this is not a database, but long enough to look at" * 200),
        scribble,
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 // 4096 * 4096]),
        drop_a_table,
        only_the_log_is_left,
    ],
)
def test_a_damaged_catalog_says_so_and_can_be_set_aside(path, damage):
    fill(path)
    damage(path)
    with pytest.raises(CatalogLost):
        Catalog.open(path, FakeClock())
    aside = set_aside(path)
    assert aside.name == "catalog.db.lost-1"
    assert any(path.parent.glob("catalog.db.lost-1*"))
    catalog = Catalog.open(path, FakeClock())
    assert catalog.fresh
    catalog.close()
    assert set_aside(path).name == "catalog.db.lost-2"


def test_a_truncated_catalog_is_fresh(path):
    fill(path)
    path.write_bytes(b"")
    catalog = Catalog.open(path, FakeClock())
    assert catalog.fresh
    catalog.close()


def test_a_full_disk_is_told_apart_and_takes_nothing_with_it(path):
    catalog = Catalog.open(path, FakeClock())
    samples.write(catalog, lambda tx: tx.put_set(samples.a_set(1)))
    pages = samples.write(catalog, lambda tx: tx._connection.exec_driver_sql("PRAGMA page_count").scalar())
    samples.write(catalog, lambda tx: tx._connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}"))
    with pytest.raises(NoSpace):
        samples.write(catalog, lambda tx: tx.put_set(samples.a_set(2, record=b"x" * 200_000)))
    assert len(catalog.read_now(lambda tx: tx.sets())) == 1
    samples.write(catalog, lambda tx: tx._connection.exec_driver_sql("PRAGMA max_page_count = 100000"))
    samples.write(catalog, lambda tx: tx.put_set(samples.a_set(2, record=b"x" * 200_000)))
    assert len(catalog.read_now(lambda tx: tx.sets())) == 2
    catalog.close()


@pytest.mark.parametrize(
    ("off", "wall_error", "trusted", "left"),
    [(600, 0, True, 3_000), (600, -86_400, False, 3_595), (600, 10 * 365 * 86_400, False, 3_595)],
)
def test_a_reboot_carries_every_promise_over_once(path, off, wall_error, trusted, left):
    clock = FakeClock()
    fill(path, clock)
    clock.reboot(off, wall_error=wall_error)
    for new_boot in (True, False):
        catalog = Catalog.open(path, clock)
        assert catalog.new_boot is new_boot
        assert catalog.clock_trusted is (trusted or not new_boot)
        now, water = clock.now(), catalog.high_water
        assert water.boot_id == "boot-2"
        replica = catalog.read_now(lambda tx: tx.replica(f"{1:032x}"))
        known = catalog.read_now(lambda tx: tx.set(f"{1:032x}"))
        assert replica.grant.boot_id == known.lease.boot_id == "boot-2"
        passed = 3_600 - left
        assert seconds_left(replica.grant, now, water) == pytest.approx(left)
        assert seconds_left(known.lease, now, water) == pytest.approx(86_400 - passed)
        assert age(known.age_base, now, water) == pytest.approx(passed)
        catalog.close()


def test_a_restart_within_a_boot_changes_no_promise(path):
    clock = FakeClock()
    fill(path, clock)
    clock.pass_time(100)
    catalog = Catalog.open(path, clock)
    assert catalog.read_now(lambda tx: tx.replica(f"{1:032x}").grant) == after(NOW, 3_600)
    catalog.close()


def test_a_check_of_a_running_catalog_names_damage(path):
    fill(path, sets=300)
    catalog = Catalog.open(path, FakeClock())
    assert catalog.check() == []
    scribble(path)
    try:
        found = catalog.check()
    except CatalogLost as lost:
        found = [str(lost)]
    assert found
    catalog.close()
