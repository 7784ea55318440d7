"""Files that a content has in common with others of this node, in a swarm's fetch: there before anything is asked for.

They are links, and nothing may be written to them: libtorrent checks what is there, and writes to a file only when a
piece of it is missing. So a piece of a linked file that does not match ends the fetch before libtorrent may ask for it.
"""

from __future__ import annotations

from pathlib import Path

from cached.errors import IntegrityFailed
from cached.replication import pack as packs
from cached.replication.membership import cut_long_files
from cached.replication.torrent import Torrent
from cached.replication.transfer import FetchJob


def prepare(job: FetchJob, pack: Path) -> None:
    """Make what is there already fit for libtorrent's check; linked files that travel packed are put into the pack."""
    if not job.fresh or job.linked:
        cut_long_files(job)
    try:
        packs.put_in(job.linked, pack, job.data, job.manifest)
    except IntegrityFailed as error:
        raise damaged(str(error.details.get("path", "")), job.content) from None


def check(torrent: Torrent, job: FetchJob) -> None:
    """Raise `IntegrityFailed` unless all pieces of the linked files are there; nothing has been asked for yet."""
    first, piece = 0, torrent.layout.piece_size
    for file in torrent.layout.files:
        count = -(-file.size // piece)
        pieces = ((1 << count) - 1) << first
        if file.path in job.linked and torrent.have & pieces != pieces:
            raise damaged(file.path, job.content)
        first += count


def damaged(path: str, content: str) -> IntegrityFailed:
    """Return the error for a linked file that does not match: other contents of this node have it, too."""
    return IntegrityFailed(
        f"{path!r} does not match, as other sets of its owner have it here",
        hint="cached verify finds the sets that are damaged",
        path=path,
        content=content,
        linked=True,
    )
