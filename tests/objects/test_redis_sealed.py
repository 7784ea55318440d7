"""Values in a place that others reach: only what was sealed with the secret, for the key, comes back."""

from __future__ import annotations

import pytest
from cached.objects.sealed import NONCE, OVERHEAD, Seal
from hypothesis import given
from hypothesis import strategies as st

SECRET = bytes(range(32))
SEAL = Seal(SECRET)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
VALUES = st.binary(max_size=2000)
NONCES = st.binary(min_size=NONCE, max_size=NONCE)


@given(KEYS, VALUES, NONCES)
def test_what_was_sealed_for_a_key_is_opened_with_it(key, value, nonce):
    sealed = SEAL.seal(key, value, nonce)
    assert len(sealed) == len(value) + OVERHEAD
    assert SEAL.open(key, sealed) == value
    assert Seal(SECRET).open(key, sealed) == value, "every node derives the same keys"


@given(KEYS, VALUES, NONCES, st.data())
def test_a_value_with_any_bit_changed_is_not_opened(key, value, nonce, data):
    sealed = bytearray(SEAL.seal(key, value, nonce))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= 1 << data.draw(st.integers(0, 7))
    assert SEAL.open(key, bytes(sealed)) is None


@given(KEYS, VALUES, NONCES, st.data())
def test_a_value_cut_short_or_lengthened_is_not_opened(key, value, nonce, data):
    sealed = SEAL.seal(key, value, nonce)
    assert SEAL.open(key, sealed[: data.draw(st.integers(0, len(sealed) - 1))]) is None
    assert SEAL.open(key, sealed + data.draw(st.binary(min_size=1, max_size=40))) is None


@given(KEYS, KEYS, VALUES, NONCES)
def test_a_value_moved_under_another_key_is_not_opened(one, other, value, nonce):
    opened = SEAL.open(other, SEAL.seal(one, value, nonce))
    assert opened == (value if one == other else None)


@given(KEYS, VALUES, NONCES, st.binary(min_size=16, max_size=64))
def test_another_secret_opens_nothing_and_names_things_otherwise(key, value, nonce, secret):
    other = Seal(secret + b"another")
    assert other.open(key, SEAL.seal(key, value, nonce)) is None
    assert other.name(key) != SEAL.name(key)
    assert other.prefix != SEAL.prefix


@given(st.binary(max_size=200))
def test_junk_is_not_opened(junk):
    assert SEAL.open("key", junk) is None
    assert SEAL.open("key", b"\x01" + junk) is None


@given(KEYS, KEYS)
def test_names_tell_keys_apart_and_say_nothing_about_them(one, other):
    name = SEAL.name(one)
    assert (name == SEAL.name(other)) == (one == other)
    assert name.startswith(SEAL.prefix)
    assert len(name) == len(SEAL.prefix) + 32
    assert name.isascii()


@given(st.binary(min_size=24, max_size=100), NONCES)
def test_a_sealed_value_does_not_show_the_value(value, nonce):
    assert value not in SEAL.seal("key", value, nonce)


def test_the_format_stays_what_it_is():
    """Nodes of different versions share one Redis: a change of these bytes needs a new version byte."""
    assert SEAL.prefix == "cached:bc68c91c8c15ffc8:"
    assert SEAL.name("key").removeprefix(SEAL.prefix) == "9e2f9e92e92b3989d8c14610992bade8"
    assert (
        SEAL.seal("key", b"value", bytes(NONCE)).hex()
        == "010000000000000000000000003255ad6beef7a187f197bcc2bf2c4e920a5cb13a07"
    )


def test_a_short_secret_is_refused():
    with pytest.raises(ValueError, match="protects nothing"):
        Seal(b"short")
