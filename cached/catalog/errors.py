"""What can go wrong with the catalog itself; refusals of the caller's making pass through unchanged."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from cached.errors import CachedError, NoSpace


class CatalogError(CachedError):
    """The catalog could not do it; nothing of the transaction was kept."""

    code = "catalog_failed"


class CatalogLost(CatalogError):
    """The database is damaged or partly missing: set it aside (`sqlite.set_aside`), adopt sets from disk."""

    code = "catalog_lost"


class CatalogTooNew(CatalogError):
    """A newer version of this program wrote the database; this one refuses to touch it."""

    code = "catalog_too_new"


_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


@contextmanager
def translated() -> Iterator[None]:
    """Turn SQLite's and SQLAlchemy's errors into ours."""
    try:
        yield
    except DBAPIError as error:
        raise _meaning(error.orig or error) from error
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise _meaning(error) from error


def _meaning(error: BaseException) -> CachedError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _DAMAGED:
        return CatalogLost(
            f"the catalog is damaged: {error}", hint="it is set aside and rebuilt from disk at start"
        )
    if code == sqlite3.SQLITE_FULL:
        return NoSpace("the catalog cannot grow: its file system is full", hint="free space under state_dir")
    return CatalogError(f"the catalog failed: {error}")
