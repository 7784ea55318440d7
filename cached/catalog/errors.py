"""What can go wrong with the catalog itself; refusals of the caller's making pass through unchanged."""

from __future__ import annotations

from cached.errors import CachedError


class CatalogError(CachedError):
    """The catalog could not do it; nothing of the transaction was kept."""

    code = "catalog_failed"


class CatalogLost(CatalogError):
    """The database is damaged or partly missing: set it aside (`sqlite.set_aside`), adopt the sets from disk."""

    code = "catalog_lost"


class CatalogTooNew(CatalogError):
    """A newer version of this program wrote the database; this one refuses to touch it."""

    code = "catalog_too_new"
