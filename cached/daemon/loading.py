"""Loading a node's libraries without the work that Python and they do on the side.

A start is above all imports: some seven hundred modules. Two things go with them that nobody needs. The collector of
cyclic garbage walks, again and again, over what was just loaded and stays. And aiohttp reads the certificates of all
public authorities, twice, for connections to servers of the web; every connection that a node makes by aiohttp
brings a context of its own (`cached.peers.tls`), and one that did not would be refused for want of an authority.
"""

from __future__ import annotations

import contextlib
import gc
import ssl
from collections.abc import Iterator


@contextlib.contextmanager
def unhindered() -> Iterator[None]:
    """Import in here, before there are other threads. What was loaded is from then on left alone by the collector."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        with _without_public_authorities():
            yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


@contextlib.contextmanager
def _without_public_authorities() -> Iterator[None]:
    def nothing(_context: ssl.SSLContext) -> None:
        """Trust nobody."""

    # The method is inherited from C: one in the class hides it, and is taken away again.
    ssl.SSLContext.set_default_verify_paths = nothing  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        del ssl.SSLContext.set_default_verify_paths
