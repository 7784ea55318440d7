"""The digests of a content, in the kind that suffices: all its leaves, or the coarse ones.

The leaves are concatenated, file after file in canonical order; they tell each 16 KiB of a file. The coarse digests
tell each 64 KiB of a file that is longer than that; of a shorter one the root in the manifest does, all of it.
"""

from __future__ import annotations

from typing import TypeAlias

from cached.sets.coarse import SPAN, Coarse
from cached.sets.coarse import check as check_coarse
from cached.sets.leaves import check_all_leaves
from cached.sets.manifest import Manifest
from cached.sets.merkle import LEAF

Digests: TypeAlias = bytes | Coarse


def unit_of(digests: Digests) -> int:
    """Return how many bytes of a file are told to be right or wrong by themselves."""
    return SPAN if isinstance(digests, Coarse) else LEAF


def check(manifest: Manifest, digests: Digests) -> None:
    """Raise `IntegrityFailed`, naming the first file, unless these digests belong to the manifest's roots."""
    if isinstance(digests, Coarse):
        check_coarse(manifest, digests)
    else:
        check_all_leaves(manifest, digests)
