"""Access tokens of Cloud Storage as they travel from a client to its daemon: checked for their shape, never shown."""

from __future__ import annotations

import re
from typing import Final

from cached.errors import UsageError

#: Longest token, in characters; a header of HTTP takes no more than twice as many.
MAX_TOKEN: Final = 4096
#: RFC 6750, section 2.1; Google's documentation promises no more than that a token fits into a header.
_TOKEN: Final = re.compile(r"[\x21-\x7e]*", re.ASCII)


def checked_token(text: str) -> str:
    """Return a token (empty: none) if it can stand in a header. Raises `UsageError`, which does not quote it."""
    if text and (len(text) > MAX_TOKEN or not _TOKEN.fullmatch(text)):
        raise UsageError(
            "the access token is not well formed",
            hint=f"up to {MAX_TOKEN} visible ASCII characters, without spaces or line ends",
        )
    return text
