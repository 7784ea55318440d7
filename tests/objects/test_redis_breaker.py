"""The circuit breaker: when something that does not answer is left alone, and when it is tried again."""

from __future__ import annotations

import itertools

from cached.objects.breaker import FIRST, LIMIT, LONGEST, Breaker
from hypothesis import given
from hypothesis import strategies as st

GAPS = st.floats(0, 100, allow_nan=False)


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    assert breaker.failed(now, waited=True)
    return breaker


def test_a_new_breaker_lets_everything_pass():
    breaker = Breaker()
    assert breaker.closed
    assert breaker.probe_at is None
    assert not breaker.probe(1e9)


def test_it_opens_after_so_many_failures_in_a_row_and_says_so_once():
    breaker = Breaker(limit=3)
    assert [breaker.failed(each) for each in range(5)] == [False, False, True, False, False]
    assert breaker.open_since == 2


def test_an_answer_between_failures_keeps_it_closed():
    breaker = Breaker(limit=2)
    for now in range(20):
        assert not breaker.failed(now)
        breaker.succeeded()
    assert breaker.closed


def test_one_failure_that_was_waited_for_opens_it():
    assert not opened().closed


def test_only_one_probe_at_a_time_and_none_before_its_time():
    breaker = opened()
    assert not breaker.probe(FIRST * 0.99)
    assert breaker.probe(FIRST)
    assert not breaker.probe(FIRST)
    assert not breaker.probe(1e9)
    assert not breaker.closed, "users wait for the probe's answer"


def test_a_probe_that_is_answered_closes_it_and_says_so_once():
    breaker = opened()
    assert not breaker.probed(FIRST, answered=True), "nobody probed"
    assert breaker.probe(FIRST)
    assert breaker.probed(FIRST, answered=True)
    assert not breaker.probed(FIRST, answered=True)
    assert breaker.closed
    assert breaker.open_since is None


def test_the_delay_between_probes_doubles_up_to_the_longest():
    breaker, now, delays = opened(), 0.0, []
    for _ in range(10):
        assert breaker.probe_at is not None
        delays.append(breaker.probe_at - now)
        now = breaker.probe_at
        assert breaker.probe(now)
        breaker.probed(now, answered=False)
    assert delays[:4] == [FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST]
    assert delays[-1] == LONGEST


def test_who_asked_before_it_opened_does_not_lengthen_the_delay():
    breaker = opened()
    before = breaker.probe_at
    assert not breaker.failed(FIRST / 2, waited=True)
    assert breaker.probe_at == before


def test_after_a_long_time_without_failures_the_delay_is_short_again():
    breaker = opened()
    for now in (FIRST, 3 * FIRST):
        assert breaker.probe(now)
        breaker.probed(now, answered=now > FIRST)
    assert breaker.closed
    assert breaker.failed(3 * FIRST + LONGEST, waited=True)
    assert breaker.probe_at == 3 * FIRST + LONGEST + FIRST


@given(st.lists(st.tuples(GAPS, st.sampled_from(["ask", "fail", "wait", "probe", "answer", "silence"]))))
def test_whatever_happens_it_is_closed_or_will_be_probed(events):
    breaker, now, probing = Breaker(), 0.0, False
    for gap, event in events:
        now += gap
        if event == "ask" and breaker.closed:
            breaker.succeeded()
        elif event in {"fail", "wait"}:
            breaker.failed(now, waited=event == "wait")
        elif event == "probe":
            probing = breaker.probe(now) or probing
        elif event in {"answer", "silence"} and probing:
            breaker.probed(now, answered=event == "answer")
            probing = False
        assert (breaker.open_since is None) == breaker.closed
        assert breaker.closed + (breaker.probe_at is not None) + probing == 1
        if breaker.probe_at is not None:
            assert breaker.probe_at <= now + LONGEST


@given(st.floats(0.01, 5), st.integers(50, 400))
def test_what_answers_probes_but_no_user_is_paid_for_once_a_back_off(step, steps):
    """A server that says PONG and then hangs: users wait no more often than the back-off allows."""
    breaker, now, waits = Breaker(), 0.0, []
    for _ in range(steps):
        now += step
        if breaker.probe(now):
            breaker.probed(now, answered=True)
        if breaker.closed:
            breaker.failed(now, waited=True)
            waits.append(now)
    gaps = [later - earlier for earlier, later in itertools.pairwise(waits)]
    wanted = [min(FIRST * 2**number, LONGEST) for number in range(len(gaps))]
    assert all(gap >= want - 1e-6 for gap, want in zip(gaps, wanted, strict=True))


@given(st.integers(1, LIMIT - 1), st.lists(GAPS, max_size=20))
def test_fewer_failures_than_the_limit_open_nothing(failures, gaps):
    breaker, now = Breaker(), 0.0
    for gap in gaps:
        for _ in range(failures):
            now += gap
            assert not breaker.failed(now)
        breaker.succeeded()
    assert breaker.closed
