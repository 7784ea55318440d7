"""The kinds of numbers and words that the shapes are made of."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

#: A duration: whole where somebody decided it, fractional where it was measured.
Seconds = int | float
Kind = Literal["file", "dir", "link"]
SetState = Literal["UNCOMMITTED", "UPLOADING", "COMMITTED", "WITHDRAWN"]
ReplicaState = Literal["REQUESTED", "TRANSFERRING", "COMMITTED", "REJECTED", "FAILED", "EXPIRED", "GOING"]
#: Where all bytes of a set can be had: on a live node, in the origin alone; or only some of them, or none.
Availability = Literal["whole", "origin", "partial", "none"]
ObjectTier = Literal["memory", "disk", "redis", "peer", "origin"]

#: Nanoseconds since 1970, as the store keeps them.
Nanoseconds = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
#: Longest duration that anybody may ask for, in seconds.
MAX_SECONDS: Final = 2**50
