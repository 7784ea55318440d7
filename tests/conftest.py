"""What all tests share: in CI a skipped test is a failure, so that no promise goes untested unnoticed.

One skip is expected there: tests against a real bucket (marker `real_bucket`) when CACHED_TEST_BUCKET names none.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

#: No test depends on how fast the machine is.
settings.register_profile("cached", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("cached")

IN_CI = os.environ.get("CI", "") not in ("", "0", "false")


def expected_skip(item: pytest.Item) -> bool:
    """Whether CI may skip this test: what it needs is not on the machine, and nobody said that it is."""
    return item.get_closest_marker("real_bucket") is not None and not os.environ.get("CACHED_TEST_BUCKET")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail") and not expected_skip(item):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where everything must run: {report.longrepr}"
    return report
