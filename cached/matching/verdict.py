"""What matching a set with a node comes to."""

from __future__ import annotations

import msgspec


class Verdict(msgspec.Struct, frozen=True):
    """Whether both sides agree, and if not, why, in words the caller can act on."""

    matches: bool
    #: Whether the set's requirements hold on the node, and the node's for the set.
    set_side: bool
    node_side: bool
    #: One line for each condition that fails; empty for a match.
    reasons: tuple[str, ...] = ()


#: The verdict of every pair that matches.
AGREED = Verdict(True, True, True)
