"""fsspec filesystems: cache sets (`cacheset://`), and objects of Cloud Storage through the node (`cachegs://`)."""

from __future__ import annotations

from cached.fs.objects import ObjectFileSystem
from cached.fs.sets import CacheSetFileSystem

__all__ = ["CacheSetFileSystem", "ObjectFileSystem"]
