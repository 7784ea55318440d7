"""The states of what lies on a node, as tables. An edge that is not in a table is refused and changes
nothing.

    content:  none -> COMING -> STABLE -> GOING -> none
    replica:  none -> TRANSFERRING -> COMMITTED -> GOING -> none

A create goes from none to STABLE and COMMITTED at once; bytes that were lost go back to COMING and
TRANSFERRING, to be fetched again. What is GOING never comes back: its bytes may be half unlinked, so a new
copy starts after the old is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from cached.errors import Busy

ContentState = Literal["COMING", "STABLE", "GOING"]
ReplicaState = Literal["TRANSFERRING", "COMMITTED", "GOING"]
Edges = Mapping[str | None, frozenset[str | None]]

#: State -> the states that may follow it; None: there is no row. Staying is always allowed.
CONTENT: Edges = {
    None: frozenset({"COMING", "STABLE"}),
    "COMING": frozenset({"STABLE", "GOING", None}),
    "STABLE": frozenset({"COMING", "GOING", None}),
    "GOING": frozenset({None}),
}
REPLICA: Edges = {
    None: frozenset({"TRANSFERRING", "COMMITTED"}),
    "TRANSFERRING": frozenset({"COMMITTED", "GOING", None}),
    "COMMITTED": frozenset({"TRANSFERRING", "GOING", None}),
    "GOING": frozenset({None}),
}


def check(edges: Edges, old: str | None, new: str | None, what: str) -> None:
    """Raise `Busy` unless `what` may go from the old state to the new one."""
    if old != new and new not in edges[old]:
        raise Busy(
            f"{what} is {old or 'not here'} and cannot become {new or 'nothing'}",
            hint="wait until it is gone, then try again" if old == "GOING" else "",
            state=old,
            wanted=new,
        )
