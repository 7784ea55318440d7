from __future__ import annotations

import msgspec
from cached.sets.set import SetRecord, SignedRecord, newer
from hypothesis import given
from hypothesis import strategies as st

RECORDS = st.builds(
    SetRecord,
    id=st.just("0" * 32),
    name=st.sampled_from(["nr", "nt"]),
    owner=st.just("alice"),
    content=st.just("f" * 64),
    bytes=st.just(1),
    files=st.just(1),
    revision=st.integers(1, 3),
    originator=st.just("n1"),
    lease_seconds=st.integers(0, 3),
    status=st.sampled_from(["live", "withdrawn", "deleted"]),
)


def _sign(record, age=0.0):
    return SignedRecord(
        payload=msgspec.json.encode(record), certificate=b"c", signature=b"s", age_seconds=age
    )


@given(st.permutations(range(4)), st.lists(RECORDS, min_size=4, max_size=4))
def test_all_nodes_agree_whichever_record_they_heard_first(order, records):
    signed = [_sign(record) for record in records]

    def heard(sequence):
        held = sequence[0]
        for each in sequence[1:]:
            held = newer(held, each)
        return held.payload

    assert heard(signed) == heard([signed[index] for index in order])


@given(RECORDS, RECORDS)
def test_a_tombstone_beats_any_revision_and_a_revision_any_status(left, right):
    held = newer(_sign(left), _sign(right)).record()
    if "deleted" in (left.status, right.status):
        assert held.status == "deleted"
    elif left.revision != right.revision:
        assert held.revision == max(left.revision, right.revision)


@given(RECORDS)
def test_a_record_reads_back_from_its_payload(record):
    assert _sign(record).record() == record
