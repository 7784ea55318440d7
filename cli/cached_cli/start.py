"""Where the program starts: nothing is imported yet that takes time, so that Ctrl-C ends it quietly from the start."""

from __future__ import annotations

import os
import signal
from typing import Final, NoReturn

_INTERRUPTED: Final = 130


def main() -> NoReturn:
    """Run the `cached` command."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda _number, _frame: os._exit(_INTERRUPTED))
    from cached_cli.main import main as run

    signal.signal(signal.SIGINT, before)
    run()
