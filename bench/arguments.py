"""What several benches take on their command lines."""

from __future__ import annotations

import argparse

from cached.errors import UsageError
from cached.units import parse_size


def size(text: str) -> int:
    """Return the bytes that an argument stands for, as in the configuration."""
    try:
        return parse_size(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(f"{error.message}: {error.hint}") from None
