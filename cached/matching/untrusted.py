"""Ads from outside: types, names and sizes are checked before anything looks at them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

from cached.errors import BadExpression, UsageError
from cached.matching import expressions
from cached.matching.ads import MAX_NAME, NAME, Ad

MAX_ATTRIBUTES = 256
#: Bytes of one string, and items of one list.
MAX_STRING = 4096
MAX_ITEMS = 256
#: Bytes of all names, strings and expressions of one ad.
MAX_AD = 32 * 1024
#: An ad's Requirements join the default, an expression of full length, and the isolation rule.
MAX_REQUIREMENTS = expressions.MAX_EXPRESSION + 512


def check_ad(ad: object, allowed: Collection[str] = ()) -> Ad:
    """Return `ad` when it is an ad within the limits; else raise `UsageError` or `BadExpression`.

    `allowed` is as for `expressions.check_text`.
    """
    if not isinstance(ad, Mapping):
        raise UsageError(f"an ad must be an object, not {type(ad).__name__}")
    if len(ad) > MAX_ATTRIBUTES:
        raise UsageError(f"an ad of {len(ad)} attributes is larger than the {MAX_ATTRIBUTES} allowed")
    size, folded = 0, set()
    for name, value in ad.items():
        _check_name(name)
        folded.add(name.lower())
        size += len(name) + _checked(name, value, allowed)
    if len(folded) < len(ad):
        raise UsageError("an ad names an attribute twice: names differ only in case")
    if size > MAX_AD:
        raise UsageError(f"an ad of {size} bytes is larger than the {MAX_AD} allowed")
    return dict(ad)


def _check_name(name: object) -> None:
    if not isinstance(name, str) or len(name) > MAX_NAME or not NAME.fullmatch(name):
        raise UsageError(f"{str(name)[:MAX_NAME]!r} cannot be the name of an attribute")


def _checked(name: str, value: Any, allowed: Collection[str]) -> int:
    """Check one value and return its size in bytes."""
    if isinstance(value, Mapping):
        return _expression(name, value, allowed)
    if isinstance(value, (list, tuple)):
        if len(value) > MAX_ITEMS:
            raise UsageError(f"attribute {name}: a list may have {MAX_ITEMS} items, not {len(value)}")
        return sum(_scalar(name, item) for item in value)
    return _scalar(name, value)


def _expression(name: str, value: Mapping[Any, Any], allowed: Collection[str]) -> int:
    text = value.get("expr")
    if len(value) != 1 or not isinstance(text, str):
        raise UsageError(f"attribute {name}: nested ads are not allowed")
    limit = MAX_REQUIREMENTS if name.lower() == "requirements" else expressions.MAX_EXPRESSION
    try:
        return _expression_size(text, frozenset(allowed), limit)
    except BadExpression as error:
        raise BadExpression(f"attribute {name}: {error.message}", hint=error.hint, **error.details) from None


@lru_cache(maxsize=2048)
def _expression_size(text: str, allowed: frozenset[str], limit: int) -> int:
    """Check an expression, which many ads share, and return its size in bytes."""
    expressions.check_text(text, allowed, limit=limit)
    return len(text.encode("utf-8", "surrogatepass"))


def _scalar(name: str, value: Any) -> int:
    if isinstance(value, bool):
        return 1
    if isinstance(value, str):
        return _string(name, value)
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return 8
    if isinstance(value, float) and math.isfinite(value):
        return 8
    raise UsageError(f"attribute {name}: {str(value)[:40]!r} is no string, number or truth value")


def _string(name: str, value: str) -> int:
    try:
        size = len(value.encode("utf-8"))
    except UnicodeEncodeError:
        raise UsageError(f"attribute {name}: the string is not valid Unicode") from None
    if size > MAX_STRING or "\0" in value:
        raise UsageError(f"attribute {name}: a string may have {MAX_STRING} bytes and no NUL")
    return size
