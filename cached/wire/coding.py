"""JSON to values and back; what does not fit is the caller's mistake, named by its field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec

from cached.errors import UsageError

Value = TypeVar("Value")

#: What decoding raises for bytes that are no value of the kind wanted; nested too deeply is among it.
UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

#: Values encoded without a pause.
_PART: Final = 500
_encoder = msgspec.json.Encoder()


def encode(value: Any) -> bytes:
    """Return the JSON of a struct, or of plain dicts and lists of them, in UTF-8 without line ends."""
    return _encoder.encode(value)


def encode_items(values: Sequence[Any]) -> bytes:
    """Return the JSON of a long list, `{"items": [...]}`; other threads get their turn between parts of it."""
    parts = (_encoder.encode(values[at : at + _PART])[1:-1] for at in range(0, len(values), _PART))
    return b'{"items":[' + b",".join(parts) + b"]}"


def decode(data: bytes | bytearray | memoryview | str, kind: type[Value]) -> Value:
    """Read JSON as a value of `kind`; raises `UsageError` that names the first field which does not fit."""
    try:
        return msgspec.json.decode(data, type=kind)
    except UNREADABLE as error:
        raise UsageError(f"the message is not well formed: {error}") from error


def convert(value: Any, kind: type[Value]) -> Value:
    """Read an already parsed JSON value as a value of `kind`; raises `UsageError` as `decode` does."""
    try:
        return msgspec.convert(value, type=kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise UsageError(f"the message is not well formed: {error}") from error


def items(values: Any) -> dict[str, Any]:
    """Return the JSON shape of every list: `{"items": [...]}`."""
    return {"items": list(values)}
