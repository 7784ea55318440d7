"""Grants, extensions, renewals and quotas."""

from __future__ import annotations

import pytest
from cached.errors import LeaseRefused, QuotaExceeded
from cached.leases.deadline import Moment, advance
from cached.leases.lease import granted
from cached.leases.policy import Grant, decide, extension, quota, renewal_due
from hypothesis import given
from hypothesis import strategies as st

DAY = 86_400
NOW = Moment(boot_id="a", boottime=1_000.0, wall=1_700_000_000.0)
whole = st.integers(0, 90 * DAY)


def ask(asked, *, min_lease=0, max_lease=30 * DAY, default=DAY, draining=False):
    return decide(asked=asked, min_lease=min_lease, max_lease=max_lease, default=default, draining=draining)


def test_a_lease_within_the_limit_is_granted_as_asked():
    assert ask(7 * DAY) == Grant(seconds=7 * DAY)


def test_a_lease_above_the_limit_is_shortened_and_says_why():
    grant = ask(60 * DAY)
    assert (grant.seconds, grant.shortened) == (30 * DAY, True)
    assert "30d" in grant.reason
    assert "60d" in grant.reason


def test_a_lease_below_the_least_acceptable_is_refused_and_the_longest_is_named():
    with pytest.raises(LeaseRefused) as refused:
        ask(60 * DAY, min_lease=31 * DAY)
    assert refused.value.details["longest_seconds"] == 30 * DAY
    assert refused.value.details["min_lease_seconds"] == 31 * DAY


@pytest.mark.parametrize("asked", [0, -1])
def test_a_lease_for_no_time_is_refused(asked):
    with pytest.raises(LeaseRefused):
        ask(asked)


def test_a_draining_node_promises_nothing():
    with pytest.raises(LeaseRefused, match="stopping"):
        ask(60, draining=True)
    with pytest.raises(LeaseRefused, match="stopping"):
        extension(10.0, 60, DAY, draining=True)


def test_without_a_wish_the_default_is_asked_for_or_the_least_acceptable():
    assert ask(None).seconds == DAY
    assert ask(None, min_lease=3 * DAY).seconds == 3 * DAY
    assert ask(None, default=90 * DAY).shortened


@given(asked=whole, min_lease=whole, max_lease=whole)
def test_a_grant_keeps_to_all_three_limits_or_is_refused_for_one(asked, min_lease, max_lease):
    try:
        grant = ask(asked, min_lease=min_lease, max_lease=max_lease)
    except LeaseRefused:
        assert min(asked, max_lease) < max(1, min_lease)
        return
    assert min_lease <= grant.seconds <= max_lease
    assert grant.seconds == min(asked, max_lease)
    assert grant.shortened == (grant.seconds < asked) == bool(grant.reason)


@given(
    held=st.integers(1, 90 * DAY),
    waited=whole,
    asked=st.integers(1, 90 * DAY),
    max_lease=st.integers(1, 60 * DAY),
)
def test_extending_never_shortens_a_lease_and_revives_an_expired_one(held, waited, asked, max_lease):
    lease = granted(held, NOW)
    now = Moment(boot_id="a", boottime=NOW.boottime + waited, wall=NOW.wall)
    water = advance(NOW, now)
    left = lease.left(now, water)
    grant = extension(left, asked, max_lease)
    longer = lease.extended(grant.seconds, now, water)
    assert longer.left(now, water) == max(left, min(asked, max_lease))
    assert longer.state(now, water) == "granted"
    assert grant.seconds == int(longer.left(now, water))
    assert grant.shortened == (grant.seconds < asked)
    assert (longer is lease) == (left >= min(asked, max_lease))


def test_an_extension_by_nothing_is_refused():
    with pytest.raises(LeaseRefused):
        extension(100.0, 0, DAY)


def test_a_lease_expires_at_its_end():
    lease = granted(10, NOW)
    end = Moment(boot_id="a", boottime=NOW.boottime + 10, wall=NOW.wall)
    assert lease.state(NOW, NOW) == "granted"
    assert lease.state(end, NOW) == "expired"


def test_a_grant_is_renewed_at_half_its_life_while_the_set_wants_it():
    assert renewal_due(51.0, 100, 1_000.0, 100) is None
    assert renewal_due(50.0, 100, 1_000.0, 100) == 100
    assert renewal_due(50.0, 100, 70.0, 100) == 70
    assert renewal_due(50.0, 100, 50.0, 100) is None
    assert renewal_due(-5.0, 100, 1_000.0, 100) == 100
    assert renewal_due(-5.0, 100, 0.0, 100) is None


@given(
    half=st.floats(0, 0.5),
    granted_seconds=st.integers(1, 10**6),
    longer=st.floats(1, 1e6),
    more=st.integers(1, 10**6),
)
def test_a_renewal_is_longer_than_what_is_left_and_never_outlasts_the_set(
    half, granted_seconds, longer, more
):
    left = half * granted_seconds
    set_left, max_lease = left + longer, int(left) + more
    wanted = renewal_due(left, granted_seconds, set_left, max_lease)
    if wanted is None:
        assert int(min(set_left, max_lease)) <= left
        return
    assert left < wanted <= min(set_left, max_lease)
    assert renewal_due(float(wanted), wanted, set_left, max_lease) is None


def test_a_quota_counts_what_is_there_and_what_is_wanted():
    quota(60, 40, 100)
    quota(10**15, 10**15, None)
    with pytest.raises(QuotaExceeded) as refused:
        quota(61, 40, 100)
    assert refused.value.details == {"bytes_wanted": 40, "bytes_used": 61, "quota": 100}
