"""All copies of this node by name: what is here, what goes when room is wanted, and what is worth moving up.

One order of worth for both tiers together (see `eviction`), so that the two behave as one cache of their joint size:
what leaves memory goes down to disk when it is worth more than what would have to go there, and a copy on disk whose
twin is in memory costs nothing to lose and goes before all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from cached.objects import admission
from cached.objects.admission import Ghosts, Tier
from cached.objects.entry import Entry, Held
from cached.objects.eviction import Ranking, worth
from cached.objects.room import Room, rounded


class Index:
    """Entries, rooms and order of the tiers that the node has; `caps` are their bytes."""

    def __init__(self, caps: Mapping[Tier, int], *, ghosts: int = admission.GHOSTS) -> None:
        self.rooms: dict[Tier, Room] = {tier: Room(cap) for tier, cap in caps.items()}
        self._entries: dict[str, Entry] = {}
        #: Names of copies by bucket and name of the object, of all generations.
        self._of_object: dict[tuple[str, str], set[str]] = {}
        self._rankings: dict[Tier, Ranking] = {tier: Ranking() for tier in caps}
        self._ghosts = Ghosts(ghosts)
        #: Bytes of all tiers together.
        self.capacity = sum(room.cap for room in self.rooms.values())
        #: Bytes read, as a multiple of the capacity; see `eviction`.
        self._age = 0.0
        #: Names of copies of which something that outlives the daemon has changed since `take_changed`.
        self._changed: set[str] = set()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def get(self, name: str) -> Entry | None:
        """Return what is here under a name."""
        return self._entries.get(name)

    def of_object(self, bucket: str, name: str) -> list[Entry]:
        """Return all copies of an object, of any generation, and of its blocks."""
        return [self._entries[one] for one in self._of_object.get((bucket, name), ())]

    def objects(self) -> list[tuple[str, str]]:
        """Return bucket and name of every object that has copies here."""
        return list(self._of_object)

    def changed(self, *names: str) -> None:
        """Note that what is to be written down of these copies, here or gone, is no longer what was written down."""
        self._changed.update(names)

    def take_changed(self) -> list[str]:
        """Return the names noted as changed, and forget that."""
        names, self._changed = self._changed, set()
        return list(names)

    def touch(self, entry: Entry, user: str, now: float, times: int = 1) -> None:
        """Note that a copy was used."""
        entry.used_by(user, now, times)
        self.changed(entry.name)
        self._age += times * rounded(entry.size) / max(1, self.capacity)
        entry.score = self._score(entry)
        self._rank(entry)

    def doubt(self, entry: Entry) -> None:
        """Let a copy be the first to go, until it is used again: it may be old."""
        entry.score = 0.0
        self._rank(entry)

    def missed(self, name: str) -> int:
        """Note a use of something that is not here; return how many are known, this one included."""
        touches = self._ghosts.touches(name) + 1
        self._ghosts.keep(name, touches)
        return touches

    def choose(self, size: int, touches: int, *, flagged: bool = False) -> list[Tier]:
        """Return the tiers that a new copy may go to, the best first; none: read through."""
        wants = admission.belongs_in_memory(touches, flagged=flagged)
        order: tuple[Tier, ...] = ("memory", "disk") if wants else ("disk",)
        if "disk" not in self.rooms:
            order = ("memory",)
        return [tier for tier in order if self.takes(tier, size)]

    def takes(self, tier: Tier, size: int) -> bool:
        """Say whether a tier would take a copy of that size at all."""
        room = self.rooms.get(tier)
        if room is None or not room.could_hold(size):
            return False
        return rounded(size) <= admission.ceiling(tier, room.cap, alone=len(self.rooms) == 1)

    def belongs_up(self, entry: Entry) -> bool:
        """Say whether a copy that lies on disk should be in memory too."""
        here = "memory" not in entry.held and "disk" in entry.held
        return (
            here
            and admission.belongs_in_memory(entry.frequency, flagged=False)
            and self.takes("memory", entry.size)
        )

    def victims(self, tier: Tier, size: int, rival: Entry | None = None) -> list[Entry] | None:
        """Return what has to go from a tier before `size` bytes can be reserved, in order; None: that cannot be.

        Nothing pinned goes; for the sake of a `rival`, nothing that is worth as much.
        """
        below = None if rival is None else rival.score
        names = self._rankings[tier].victims(
            self.rooms[tier].lacks(size), lambda name: self._gives(name, tier), below
        )
        return None if names is None else [self._entries[name] for name in names]

    def least(self, tier: Tier, size: int) -> list[Entry]:
        """Return the least worthy copies of a tier that together give back `size` bytes, or all that may go."""
        gives = partial(self._gives, tier=tier)
        names = self._rankings[tier].victims(size, gives)
        if names is None:
            return [entry for entry in self if tier in entry.held and not (entry.pins or entry.borrowed)]
        return [self._entries[name] for name in names]

    def keep(self, entry: Entry, tier: Tier, held: Held) -> None:
        """Take in a copy that now lies in a tier; its room is taken already."""
        if entry.name not in self._entries:
            self._entries[entry.name] = entry
            self._of_object.setdefault((entry.key.bucket, entry.key.name), set()).add(entry.name)
            self._ghosts.forget(entry.name)
            self.changed(entry.name)
            entry.score = self._score(entry)
        entry.held[tier] = held
        self._rank(entry)

    def detach(self, entry: Entry, tier: Tier, *, remember: bool) -> Held:
        """Take a copy out of a tier, before its file goes; its room stays taken until that is done.

        `remember`: it goes for want of room, so its touches are remembered when nothing else of it is here.
        """
        held = entry.held.pop(tier)
        self._rankings[tier].remove(entry.name)
        if entry.held:
            self._rank(entry)
            return held
        if self._entries.pop(entry.name, None) is not None:
            self._disown(entry)
            self.changed(entry.name)
        if remember:
            self._ghosts.keep(entry.name, entry.frequency)
        return held

    def _disown(self, entry: Entry) -> None:
        whose = (entry.key.bucket, entry.key.name)
        names = self._of_object[whose]
        names.discard(entry.name)
        if not names:
            del self._of_object[whose]

    def _gives(self, name: str, tier: Tier) -> int:
        entry = self._entries[name]
        return 0 if entry.pins or entry.borrowed else rounded(entry.held[tier].allocated)

    def _score(self, entry: Entry) -> float:
        return self._age + worth(entry.size, entry.frequency, entry.source)

    def _rank(self, entry: Entry) -> None:
        twin = "memory" in entry.held and "disk" in entry.held
        for tier in entry.held:
            self._rankings[tier].put(entry.name, 0.0 if twin and tier == "disk" else entry.score)
