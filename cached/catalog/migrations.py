"""The schema, as the numbered steps that lead to it. A released step is never edited: add the next one.

Each step and its number (`PRAGMA user_version`) are one transaction, so a crash leaves the step before or the
step after. Before the first step on a database that holds anything, a copy is made beside it.

Where state is kept:

    sets ──< replicas >── contents     (what this node holds, and its bytes)
      └──< transfers                   (replicas on their way here)
    reservations                       (space set aside; the owner of incoming/<txid>)
    checks ──> contents                (when their bytes were last verified, and what is damaged)
    uploads ──> sets                   (sets on their way into the origin)
    objects                            (copies of objects of Cloud Storage)
    scoped                             (objects written to Cloud Storage for a scope)
    ledger                             (what each user took, by hour)
    meta                               (high water of the clocks, marks)
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import msgspec

from cached.catalog.errors import CatalogLost, CatalogTooNew


class Migration(msgspec.Struct, frozen=True):
    """One step of the schema."""

    number: int
    title: str
    statements: tuple[str, ...]


_FIRST = (
    """
    CREATE TABLE sets (
        id TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, owner TEXT NOT NULL, content TEXT NOT NULL,
        revision INTEGER NOT NULL, status TEXT NOT NULL CHECK (status IN ('live', 'withdrawn', 'deleted')),
        record BLOB NOT NULL,
        age_base_boot TEXT NOT NULL, age_base_boottime REAL NOT NULL, age_base_wall REAL NOT NULL,
        lease_boot TEXT NOT NULL, lease_boottime REAL NOT NULL, lease_wall REAL NOT NULL,
        originator TEXT NOT NULL, local INTEGER NOT NULL
    ) WITHOUT ROWID""",
    """
    CREATE TABLE contents (
        content TEXT NOT NULL, tier TEXT NOT NULL CHECK (tier IN ('disk', 'memory')),
        bytes INTEGER NOT NULL CHECK (bytes >= 0), physical INTEGER NOT NULL CHECK (physical >= 0),
        state TEXT NOT NULL CHECK (state IN ('COMING', 'STABLE', 'GOING')),
        PRIMARY KEY (content, tier)
    ) WITHOUT ROWID""",
    """
    CREATE TABLE replicas (
        set_id TEXT NOT NULL PRIMARY KEY REFERENCES sets (id),
        content TEXT NOT NULL, tier TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('TRANSFERRING', 'COMMITTED', 'GOING')),
        grant_boot TEXT NOT NULL, grant_boottime REAL NOT NULL, grant_wall REAL NOT NULL,
        granted_seconds INTEGER NOT NULL, bytes INTEGER NOT NULL, owner TEXT NOT NULL,
        created_wall REAL NOT NULL, last_read_wall REAL NOT NULL,
        verified_boot TEXT NOT NULL, reason TEXT NOT NULL,
        FOREIGN KEY (content, tier) REFERENCES contents (content, tier)
    ) WITHOUT ROWID""",
    "CREATE INDEX replicas_by_content ON replicas (content, tier)",
    """
    CREATE TABLE reservations (
        txid TEXT NOT NULL PRIMARY KEY,
        purpose TEXT NOT NULL CHECK (purpose IN ('create', 'replica', 'memory')),
        tier TEXT NOT NULL CHECK (tier IN ('disk', 'memory')),
        bytes INTEGER NOT NULL CHECK (bytes >= 0), logical INTEGER NOT NULL CHECK (logical >= 0),
        owner TEXT NOT NULL, set_id TEXT NOT NULL, content TEXT NOT NULL
    ) WITHOUT ROWID""",
    """
    CREATE TABLE transfers (
        txid TEXT NOT NULL PRIMARY KEY, set_id TEXT NOT NULL REFERENCES sets (id),
        content TEXT NOT NULL, tier TEXT NOT NULL, source TEXT NOT NULL,
        manifest_ready INTEGER NOT NULL, piece_size INTEGER NOT NULL, offer BLOB NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX transfers_by_set ON transfers (set_id)",
    "CREATE TABLE meta (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
)

_CHECKS = (
    """
    CREATE TABLE checks (
        content TEXT NOT NULL, tier TEXT NOT NULL, wall REAL NOT NULL, boot TEXT NOT NULL,
        damaged BLOB NOT NULL, reason TEXT NOT NULL,
        PRIMARY KEY (content, tier),
        FOREIGN KEY (content, tier) REFERENCES contents (content, tier) ON DELETE CASCADE
    ) WITHOUT ROWID""",
)

_UPLOADS = (
    """
    CREATE TABLE uploads (
        set_id TEXT NOT NULL PRIMARY KEY REFERENCES sets (id) ON DELETE CASCADE,
        content TEXT NOT NULL, target TEXT NOT NULL, done BLOB NOT NULL, reason TEXT NOT NULL
    ) WITHOUT ROWID""",
)

_OBJECTS = (
    "CREATE TABLE objects (name TEXT NOT NULL PRIMARY KEY, entry BLOB NOT NULL) WITHOUT ROWID",
    """
    CREATE TABLE scoped (
        owner TEXT NOT NULL, scope TEXT NOT NULL, bucket TEXT NOT NULL, name TEXT NOT NULL,
        generation INTEGER NOT NULL, bytes INTEGER NOT NULL,
        PRIMARY KEY (owner, scope, bucket, name)
    ) WITHOUT ROWID""",
    """
    CREATE TABLE ledger (
        hour INTEGER NOT NULL, owner TEXT NOT NULL, kind TEXT NOT NULL CHECK (kind IN ('set', 'object')),
        tier TEXT NOT NULL, scope TEXT NOT NULL, byte_seconds REAL NOT NULL,
        saved_bytes INTEGER NOT NULL, saved_operations INTEGER NOT NULL,
        spent_bytes INTEGER NOT NULL, spent_operations INTEGER NOT NULL,
        PRIMARY KEY (hour, owner, kind, tier, scope)
    ) WITHOUT ROWID""",
)

_FAMILIES = ("ALTER TABLE contents ADD COLUMN family TEXT NOT NULL DEFAULT ''",)

MIGRATIONS: tuple[Migration, ...] = (
    Migration(1, "sets, their bytes, and the promises for them", _FIRST),
    Migration(2, "when bytes were last verified, and what is damaged", _CHECKS),
    Migration(3, "sets on their way into the origin", _UPLOADS),
    Migration(
        4, "copies of objects, what was written for a scope, and the ledger of what users took", _OBJECTS
    ),
    Migration(5, "contents that have files in common", _FAMILIES),
)


def migrate(path: Path, steps: tuple[Migration, ...] = MIGRATIONS) -> None:
    """Bring the database at `path` up to the newest step, creating it if need be.

    Raises `CatalogTooNew` for a database that a newer program wrote, `CatalogLost` if a step leaves dangling
    references.
    """
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_mode = WAL")
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        newest = steps[-1].number
        if version > newest:
            raise CatalogTooNew(
                f"the catalog {path} has schema {version}, this program knows up to {newest}",
                hint="start the newer version again, or use another state directory",
                schema=version,
                known=newest,
            )
        pending = [step for step in steps if step.number > version]
        if pending and version:
            _backup(connection, path.with_name(f"{path.name}.schema-{version}"))
        for step in pending:
            _apply(connection, step)
    finally:
        connection.close()


def _apply(connection: sqlite3.Connection, step: Migration) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in step.statements:
            connection.execute(statement)
        dangling = connection.execute("PRAGMA foreign_key_check").fetchall()
        if dangling:
            raise CatalogLost(
                f"upgrading the catalog to schema {step.number} left {len(dangling)} dangling references",
                hint="the copy made before the upgrade is beside it; please report this",
            )
        connection.execute(f"PRAGMA user_version = {step.number}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _backup(connection: sqlite3.Connection, target: Path) -> None:
    """Copy the whole database to `target`, durable and complete, or not there at all."""
    partial = target.with_name(target.name + ".part")
    partial.unlink(missing_ok=True)
    copy = sqlite3.connect(partial)
    try:
        connection.backup(copy)
    finally:
        copy.close()
    fsync(partial)
    partial.rename(target)
    fsync(target.parent)


def fsync(path: Path) -> None:
    """Make a file, or the names in a directory, durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
