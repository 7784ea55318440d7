"""The line with which `exec` ends: how large its sets were, and from where they came. Never in the command's way."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from cached.errors import CachedError

from cached_cli.output import talk
from cached_cli.session import Session

if TYPE_CHECKING:
    from cached.client.tally import Tally


class Provenance:
    """Looks at each set before it is placed and after; says nothing unless it is `wanted`, and never fails."""

    def __init__(self, session: Session, *, wanted: bool) -> None:
        self._session = session
        self._tally: Tally | None = None
        self._here = False
        if wanted:
            from cached.client.tally import Tally

            self._tally = Tally()

    def before(self, ref: str) -> None:
        """Remember whether the node has the set already."""
        if self._tally is not None:
            from cached.client.arrival import is_here

            with contextlib.suppress(CachedError):
                self._here = is_here(self._session.client(), ref)

    def after(self, ref: str) -> None:
        """Count what can now be read."""
        if self._tally is None:
            return
        name, _, below = ref.partition("/")
        with contextlib.suppress(CachedError):
            files, size = self._extent(name, below.strip("/"))
            self._tally.brought(files, size, "here" if self._here else "peer", what="set")

    def _extent(self, name: str, below: str) -> tuple[int, int]:
        client = self._session.client()
        if not below:
            view = client.show(name)
            return view.files, view.bytes
        files = [
            each
            for each in client.files(name)
            if each.kind == "file" and (each.path == below or each.path.startswith(f"{below}/"))
        ]
        return len(files), sum(each.size for each in files)

    def tell(self) -> None:
        """Say it on stderr, as JSON with --json."""
        if self._tally is not None and self._tally.files_in:
            with contextlib.suppress(OSError):
                talk(
                    json.dumps({"summary": self._tally.facts()}) if self._session.json else self._tally.line()
                )
