"""Bounds of a set record that came from elsewhere: a signature says who wrote it, not that its values make sense.

Ids become file names, sizes become reservations, durations become deadlines: each is checked before anybody uses it.
"""

from __future__ import annotations

import re
from typing import Final

from cached.errors import CachedError, IntegrityFailed
from cached.sets.names import check_owner, check_set_name, check_share
from cached.sets.set import ALL, SetRecord, set_id

#: Largest encoded record, in bytes: an expression of 4 KiB, escaped, and names.
MAX_PAYLOAD: Final = 64 * 1024
#: Largest size, count or revision: what the catalog can keep, with room for sums.
MAX_NUMBER: Final = 2**60
#: Longest duration, in seconds.
MAX_SECONDS: Final = 2**50
MAX_REPLICAS: Final = 1_000_000
#: Longest address of a place in the origin, in characters.
MAX_ORIGIN: Final = 1300

_NONCE = re.compile(r"[0-9a-f]{32}")
_CONTENT = re.compile(r"[0-9a-f]{64}")
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def check_record(record: SetRecord) -> None:
    """Raise `IntegrityFailed` unless every value of a record is one that a record may have."""
    try:
        check_set_name(record.name)
        check_owner(record.owner)
        check_share(record.share)
    except CachedError as error:
        raise IntegrityFailed(f"a set record cannot be used: {error.message}") from None
    wrong = [name for name, fits in _checks(record).items() if not fits]
    if wrong:
        raise IntegrityFailed(f"a set record cannot be used: its {wrong[0]} is not possible")


def _checks(record: SetRecord) -> dict[str, bool]:
    return {
        "nonce": _NONCE.fullmatch(record.nonce) is not None,
        "id": record.id == set_id(record.owner, record.content, record.nonce),
        "content": _CONTENT.fullmatch(record.content) is not None,
        "bytes": 0 <= record.bytes <= MAX_NUMBER,
        "files": 0 <= record.files <= MAX_NUMBER,
        "revision": 1 <= record.revision <= MAX_NUMBER,
        "replicas": ALL <= record.replicas <= MAX_REPLICAS,
        "origin": len(record.origin) <= MAX_ORIGIN and not _UNFIT.search(record.origin),
        "lease_seconds": -MAX_SECONDS <= record.lease_seconds <= MAX_SECONDS,
        "min_lease_seconds": -MAX_SECONDS <= record.min_lease_seconds <= MAX_SECONDS,
    }
