"""Who keeps a name that two live nodes have; a rule.

The later one gives way and adds the first digits of its node id. Starts within a few seconds of each other
count as simultaneous: then the lower node id keeps the name, so that both sides come to the same answer.
"""

from __future__ import annotations

from collections.abc import Container


def yields(own_id: str, rival_id: str, *, rival_lead: float, same_start: float, rounds: int) -> bool:
    """Tell whether we give the name up to a rival that has been running for `rival_lead` seconds longer.

    Both sides measure the lead a little differently; where that made both keep the name, the node ids decide
    once the conflict has lasted for `rounds` of more than five.
    """
    if abs(rival_lead) < same_start or rounds > 5:
        return rival_id < own_id
    return rival_lead > 0


def free_name(wanted: str, own_id: str, taken: Container[str]) -> str:
    """Return the wanted name with as many digits of the node id as make it unique."""
    return next(
        name for digits in range(4, len(own_id) + 1) if (name := f"{wanted}-{own_id[:digits]}") not in taken
    )
