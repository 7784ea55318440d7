"""Rules of the origin: checksums of parts, waiting, what answers mean."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import google_crc32c
import pytest
from cached.addresses import Address, Prefix
from cached.errors import Forbidden, IntegrityFailed, OriginChanged, OriginUnavailable
from cached.origin.calls import decoded, encoded
from cached.origin.crc import combine, crc32c, of_parts
from cached.origin.failures import answered, refusal
from cached.origin.retry import PROGRESS, Patience, delay
from cached.origin.values import LATELY, OriginStats
from hypothesis import given
from hypothesis import strategies as st

THERE = Address("b", "o")
crcs = st.integers(0, 2**32 - 1)


@given(st.binary(), st.binary())
def test_the_checksum_of_two_pieces_is_that_of_both_together(one, other):
    assert combine(crc32c(one), crc32c(other), len(other)) == google_crc32c.value(one + other)


@given(st.lists(st.binary()))
def test_the_checksum_of_all_parts_is_that_of_the_whole(parts):
    assert of_parts((crc32c(part), len(part)) for part in parts) == google_crc32c.value(b"".join(parts))


@given(crcs, crcs, crcs, st.integers(0, 2**44), st.integers(0, 2**44))
def test_pieces_of_terabytes_are_combined_in_any_grouping(one, two, three, second, third):
    left = combine(combine(one, two, second), three, third)
    assert left == combine(one, combine(two, three, third), second + third)


def test_a_checksum_is_that_of_the_standard_and_of_any_kind_of_bytes():
    digits = b"123456789"
    assert crc32c(digits) == crc32c(bytearray(digits)) == crc32c(memoryview(digits)) == 0xE3069283
    assert crc32c(digits[4:], crc32c(digits[:4])) == 0xE3069283
    assert crc32c(bytearray(1_000_000)) == google_crc32c.value(bytes(1_000_000))


@given(crcs)
def test_a_checksum_is_written_as_the_service_does(crc):
    assert decoded(encoded(crc), THERE) == crc


@pytest.mark.parametrize("text", [None, "", "AAAA", "not base64", "AAAAAAAAAA=="])
def test_an_object_without_a_checksum_is_refused_by_its_name(text):
    with pytest.raises(IntegrityFailed, match="gs://b/o"):
        decoded(text, THERE)


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_waits_grow_up_to_a_limit_and_are_spread(attempt, dice):
    ceiling = min(30.0, 0.5 * 2.0 ** min(attempt, 50))
    assert ceiling / 2 <= delay(attempt, dice) <= ceiling


def test_patience_ends_when_the_next_attempt_would_be_too_late():
    patience, now = Patience(10.0, 100.0, first=1.0), 100.0
    waits = []
    while (seconds := patience.wait(now, 0.0)) is not None:
        waits.append(seconds)
        now += seconds
    assert waits == [0.5, 1.0, 2.0, 4.0]
    assert patience.failures == 5


def test_progress_renews_patience():
    patience = Patience(1.0, 0.0, first=1.0)
    for now in itertools.islice(itertools.count(0, 100), 20):
        assert patience.wait(float(now), 0.0, moved=PROGRESS) == 0.5
    assert patience.wait(5000.0, 0.0, moved=PROGRESS - 1) is None


def answer(status: int, content: bytes = b""):
    return answered(SimpleNamespace(status_code=status, content=content))


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_answers_that_may_change_are_asked_for_again(status):
    assert answer(status).transient


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 412, 416, 501])
def test_answers_that_will_not_change_are_final(status):
    assert not answer(status).transient


def test_a_denial_that_is_a_rate_limit_is_asked_for_again():
    said = b'{"error": {"code": 403, "message": "slow down", "errors": [{"reason": "rateLimitExceeded"}]}}'
    assert answer(403, said).transient
    assert not answer(403, said.replace(b"rateLimitExceeded", b"forbidden")).transient


@pytest.mark.parametrize(
    "content", [b"", b"plain", b"[]", b'"x"', b'{"error": 5}', b'{"error": {"errors": [5]}}', b"\xff"]
)
def test_an_answer_in_any_form_has_words(content):
    assert answer(404, content).text.startswith("HTTP 404")


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (401, b"", Forbidden),
        (403, b"", Forbidden),
        (404, b"No such object: b/o", OriginChanged),
        (412, b"", OriginChanged),
        (416, b"", OriginChanged),
        (400, b"Provided CRC32C does not match", IntegrityFailed),
        (400, b"requester pays", OriginUnavailable),
        (503, b"", OriginUnavailable),
    ],
)
def test_each_refusal_names_the_object_and_the_cause(status, text, kind):
    error = refusal(answer(status, text), THERE.pinned(5))
    assert type(error) is kind
    assert "gs://b/o#5" in error.message
    assert f"HTTP {status}" in error.message


def test_a_listing_that_is_not_found_is_about_its_bucket():
    assert "gs://b " in refusal(answer(404), Prefix("b", "x/")).message


def test_that_requests_fail_one_after_the_other_is_said_in_words_until_one_is_answered():
    now = [0.0]
    stats = OriginStats(clock=lambda: now[0])
    for at in (0.0, 10.0):
        now[0] = at
        stats.silent("HTTP 503")
        assert stats.trouble == "", "that happens"
    now[0] = 20.0
    stats.silent("no route to host")
    now[0] = 25.0
    assert (
        "3 requests in a row failed, the first 25 s ago, the last 5 s ago (no route to host)" in stats.trouble
    )
    now[0] = 20.0 + LATELY + 1
    assert stats.trouble == "", "nobody has asked since"
    now[0] = 21.0
    stats.answered()
    assert stats.trouble == ""
