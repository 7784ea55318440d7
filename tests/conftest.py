"""What all tests share: in CI a skipped test is a failure, so that no promise goes untested unnoticed."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

#: No test depends on how fast the machine is.
settings.register_profile("cached", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("cached")

IN_CI = os.environ.get("CI", "") not in ("", "0", "false")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where everything must run: {report.longrepr}"
    return report
