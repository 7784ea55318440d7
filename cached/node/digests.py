"""Digests of a content that lies here, in the kind that suffices: all leaves, or the coarse ones."""

from __future__ import annotations

import contextlib

from cached.errors import CachedError
from cached.sets.coarse import Coarse, check, coarse
from cached.sets.manifest import Manifest
from cached.storage.disk import Store

#: Bytes of a content from which on the coarse digests are worth being kept and sent: the leaves of a smaller one take
#: no longer to read and hash than another file takes to write.
COARSE_FROM = 4 << 20


def coarse_of(store: Store, content: str, manifest: Manifest) -> Coarse:
    """Return the coarse digests of a content; once made they are kept, and the leaves need not be read again.

    Raises `IntegrityFailed` when they are to be made from leaves that are damaged.
    """
    found = store.coarse(content)
    if found is None:
        found = coarse(manifest, store.leaves(content))
        check(manifest, found)
        with contextlib.suppress(CachedError):  # it is just going, or the disk is full
            store.put_coarse(content, found)
    return found
