"""crc32c of a whole from the crc32c of its parts, without reading them again.

The checksum is the remainder of the message as a polynomial over GF(2) (RFC 3720, appendix B.4): what stands in front
of `n` more bytes is multiplied by x^(8n), so only that factor is needed. Method: Mark Adler's `crc32_combine` in zlib.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Final

#: The Castagnoli polynomial, lowest power in the highest bit.
_POLYNOMIAL: Final = 0x82F63B78
_ONE: Final = 1 << 31
_PIECE: Final = 256 * 1024


def crc32c(data: bytes | bytearray | memoryview, crc: int = 0) -> int:
    """Return the crc32c of `data`, or with `crc` that of what came before it and `data`."""
    import google_crc32c  # a node's alone, and not at its start

    if isinstance(data, bytes):
        return int(google_crc32c.extend(crc, data))
    view = memoryview(data).cast("B")
    for at in range(0, len(view), _PIECE):  # the library takes nothing but bytes
        crc = int(google_crc32c.extend(crc, bytes(view[at : at + _PIECE])))
    return crc


def combine(first: int, second: int, length: int) -> int:
    """Return the crc32c of two pieces one after the other; `length` is that of the second, in bytes."""
    return _product(_shift(length), first) ^ second


def of_parts(parts: Iterable[tuple[int, int]]) -> int:
    """Return the crc32c of parts in their order, each given as its crc32c and its length; of nothing it is 0."""
    whole = 0
    for crc, length in parts:
        whole = combine(whole, crc, length)
    return whole


def _product(one: int, other: int) -> int:
    """Multiply two polynomials modulo the polynomial."""
    result, mask = 0, _ONE
    while mask:
        if one & mask:
            result ^= other
        other = (other >> 1) ^ (_POLYNOMIAL if other & 1 else 0)
        mask >>= 1
    return result


@functools.cache
def _power(exponent: int) -> int:
    """Return x^(2^exponent)."""
    return _ONE >> 1 if exponent == 0 else _product(_power(exponent - 1), _power(exponent - 1))


@functools.lru_cache(maxsize=256)
def _shift(length: int) -> int:
    """Return x^(8 length)."""
    result, exponent = _ONE, 3
    while length:
        if length & 1:
            result = _product(_power(exponent), result)
        length >>= 1
        exponent += 1
    return result
