"""Who asks: the local process at the other end of a socket, as the kernel vouches for it."""

from __future__ import annotations

import msgspec


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """A local user, and the process that speaks for that user; resolved once per connection."""

    uid: int
    gid: int
    #: `user` or `user@domain`; `uid-N` for a uid without a name on this node.
    user: str
    #: Names of the primary and supplementary groups as of connect; `gid-N` for a gid without a name.
    groups: frozenset[str]
    #: May act for every user of this node (`[policy] admins`).
    admin: bool
    #: As this node's process namespace numbers it; 0 when the process is not visible here.
    pid: int
    #: Clock ticks since boot, field 22 of /proc/PID/stat; 0 when the process is gone or not visible.
    start_time: int
