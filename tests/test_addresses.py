"""Addresses of objects."""

import pytest
from cached.addresses import Address, Prefix, is_address, parse, parse_prefix
from cached.errors import UsageError
from hypothesis import given
from hypothesis import strategies as st

names = st.text(min_size=1, max_size=200).filter(
    lambda name: (
        "\r" not in name
        and "\n" not in name
        and name not in (".", "..")
        and len(name.encode("utf-8", "ignore")) <= 1024
    )
)
clean = names.filter(lambda name: name.isprintable() and not name.rpartition("#")[2].isdigit())


def test_an_address_is_bucket_object_and_perhaps_a_generation():
    assert parse("gs://genomes/hs/chr1.fa") == Address("genomes", "hs/chr1.fa")
    assert parse("gs://genomes/hs/chr1.fa#1712") == Address("genomes", "hs/chr1.fa", 1712)
    assert parse("gs://b-1.x/a#b") == Address("b-1.x", "a#b")
    assert parse("gs://buc//a//") == Address("buc", "/a//")
    assert not is_address("nr/chr1.fa")


@given(clean, st.none() | st.integers(1, 2**62))
def test_what_is_written_is_read_again(name, generation):
    address = Address("bucket", name, generation)
    assert parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["", "nr", "gs://", "gs://b", "gs:///o", "gs://Bucket/o", "gs://bucket", "gs://bucket/", "gs://bu..ket/o",
     "gs://-bucket/o", "gs://bucket/..", "gs://bucket/a\nb", "gs://bucket/" + "é" * 513, "s3://bucket/o",
     "gs://bucket/\ud800", "gs://" + "a" * 64 + "/o"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text):
    with pytest.raises(UsageError):
        parse(text)


def test_a_prefix_may_be_a_whole_bucket_and_covers_what_begins_with_it():
    assert parse_prefix("gs://bucket") == parse_prefix("gs://bucket/") == Prefix("bucket")
    below = parse_prefix("gs://bucket/runs/7/")
    assert below.covers("bucket", "runs/7/out")
    assert not below.covers("bucket", "runs/70/out")
    assert not below.covers("other", "runs/7/out")
    assert str(below) == "gs://bucket/runs/7/"
