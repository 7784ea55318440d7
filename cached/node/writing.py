"""Which objects are being written for scopes: of what is under way nobody forgets that it was begun.

Several may write the same object for the same scope at once, and each hears something else of Cloud Storage. What is
written down of it is forgotten only when all of them were refused, and nothing was written down before they came.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple


class Where(NamedTuple):
    """An object of a scope."""

    user: str
    scope: str
    bucket: str
    name: str


@dataclass
class Puts:
    """Those who write one object at present."""

    #: Who is here, and of those who has not heard yet what Cloud Storage says.
    present: int = 0
    waiting: int = 0
    #: Nothing was written down of it before the first of them came.
    new: bool = False
    #: Cloud Storage has nothing of those who are done.
    refused: bool = True

    @property
    def to_forget(self) -> bool:
        """Tell whether nothing of it is in Cloud Storage, or will be."""
        return self.new and self.refused and not self.waiting


@dataclass
class Writing:
    """What is under way; may be asked from any thread."""

    _puts: dict[Where, Puts] = field(default_factory=dict)

    @contextlib.contextmanager
    def begun(self, where: Where) -> Iterator[Puts]:
        """Count one who writes the object, from before that is written down until all is said of it."""
        puts = self._puts.setdefault(where, Puts())
        puts.present += 1
        try:
            yield puts
        finally:
            puts.present -= 1
            if not puts.present:
                del self._puts[where]

    def of(self, where: Where) -> bool:
        """Tell whether somebody writes the object."""
        return where in self._puts
