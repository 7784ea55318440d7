"""Has msgspec work out all structs before threads use them.

It does so at a struct's first use, and runs Python code meanwhile, so that another thread may come by; one that meets
the half of it crashes the process (msgspec 0.22, ADR 36). Afterwards all of it may be used by any thread.
"""

from __future__ import annotations

from typing import Any

import msgspec


def settle(*generic: Any) -> None:
    """Work out every struct of this program that has been imported, and these generic ones with their parameters.

    Call it while nobody else decodes.
    """
    waiting = msgspec.Struct.__subclasses__()
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__.partition(".")[0] in ("cached", "cached_cli"):
            msgspec.json.Decoder(kind)
    for one in generic:
        msgspec.json.Decoder(one)
