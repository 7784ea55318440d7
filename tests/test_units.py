from __future__ import annotations

import pytest
from cached.errors import UsageError
from cached.units import (
    MAX_DURATION,
    format_duration,
    format_size,
    parse_duration,
    parse_rate,
    parse_size,
    rfc3339,
)
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("12h", 43_200),
        ("7d", 604_800),
        ("2w", 1_209_600),
        ("0", 0),
        ("0s", 0),
        (" 5m ", 300),
        ("1d12h", 129_600),
        ("6d 23h", 601_200),
        ("1.5h", 5400),
        (45, 45),
    ],
)
def test_durations_are_read_with_their_unit(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "7 days", "-1h", "h", "1.5", "7D", "0.5s", "1e9d", "٣d", "40000d", True, -1]
)
def test_what_is_no_clear_duration_is_refused_and_quoted(text):
    with pytest.raises(UsageError, match="duration") as caught:
        parse_duration(text)
    assert repr(text) in caught.value.message


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1024", 1024),
        ("0", 0),
        ("10 B", 10),
        ("1kB", 1000),
        ("500MB", 500_000_000),
        ("15GB", 15_000_000_000),
        ("2TB", 2 * 10**12),
        ("1KiB", 1024),
        ("500MiB", 524_288_000),
        ("1.5 GiB", 1_610_612_736),
        ("1TiB", 2**40),
        ("8gib", 2**33),
        (77, 77),
    ],
)
def test_sizes_are_decimal_or_binary_as_written(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "5G", "5K", "GB", "-1GB", "1.0001kiB", "5 XB", "1e3", "9EB", "99999999PiB", False]
)
def test_what_is_no_clear_size_is_refused_and_quoted(text):
    with pytest.raises(UsageError, match="size") as caught:
        parse_size(text)
    assert repr(text) in caught.value.message


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("20Mb/s", 2_500_000),
        ("20MB/s", 20_000_000),
        ("20MB", 20_000_000),
        ("20 MiB/s", 20 << 20),
        ("160Mbit/s", 20_000_000),
        ("160Mbps", 20_000_000),
        ("160MBps", 160_000_000),
        ("8Kib/s", 1024),
        ("1.5GB/s", 1_500_000_000),
        ("100kb/s", 12_500),
        ("4096", 4096),
        ("9b/s", 1),
        (77, 77),
    ],
)
def test_of_a_rate_b_is_bits_and_a_large_b_bytes(text, rate):
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["20mb/s", "20mB/s", "20gib/s", "20M", "20M/s", "20MBit/s", "fast", "", "-1MB/s", "20Mb/h", True]
)
def test_a_rate_that_may_mean_either_is_refused_and_told_how_to_be_written(text):
    with pytest.raises(UsageError, match="rate") as caught:
        parse_rate(text)
    assert repr(text) in caught.value.message
    assert "160Mbit/s" in caught.value.hint


def test_sizes_are_shown_in_binary_units():
    shown = [format_size(size) for size in (0, 1023, 1024, 1536 * 1024**2, 1024**2 - 1, 10 * 1024**6)]
    assert shown == ["0 B", "1023 B", "1.0 KiB", "1.5 GiB", "1.0 MiB", "10240.0 PiB"]


def test_durations_are_shown_in_two_units_rounded_down():
    shown = [
        format_duration(seconds) for seconds in (-5, 0, 59.9, 125, 3600, 11_520, 604_799, 86_400 * 400 + 59)
    ]
    assert shown == ["0s", "0s", "59s", "2m 5s", "1h", "3h 12m", "6d 23h", "400d"]


@given(st.integers(0, MAX_DURATION))
def test_a_shown_duration_reads_back_as_at_most_itself(seconds):
    back = parse_duration(format_duration(seconds))
    assert back <= seconds
    assert seconds - back <= max(seconds // 24, 0)


@given(st.integers(0, 2**62))
def test_plain_bytes_read_back_exactly(size):
    assert parse_size(str(size)) == size


def test_instants_are_rfc3339_in_utc():
    assert rfc3339(0) == "1970-01-01T00:00:00Z"
    assert rfc3339(1_769_860_800.9) == "2026-01-31T12:00:00Z"
    assert rfc3339(1e30) == "9999-12-31T23:59:59Z"
