from __future__ import annotations

import errno
import signal
import subprocess
import sys

import pytest
from cached import faults
from cached.errors import UsageError


@pytest.fixture(autouse=True)
def _disarmed():
    yield
    faults.arm("")


def test_a_point_without_a_plan_does_nothing():
    faults.point("tests.unplanned")


def test_a_declared_point_is_registered():
    assert faults.declare("tests.known") in faults.registered()


@pytest.mark.parametrize(("action", "number"), [("error", errno.EIO), ("full", errno.ENOSPC)])
def test_a_planned_error_is_raised_at_every_hit(action, number):
    faults.arm(f"tests.write:{action}")
    for _ in range(2):
        with pytest.raises(OSError, match=r"tests\.write") as caught:
            faults.point("tests.write")
        assert caught.value.errno == number
    faults.point("tests.other")


def test_a_numbered_hit_fires_once_and_only_then():
    faults.arm("tests.write@2:error, tests.other:sleep=0")
    faults.point("tests.write")
    with pytest.raises(OSError, match=r"tests\.write"):
        faults.point("tests.write")
    faults.point("tests.write")
    faults.point("tests.other")


def test_the_environment_kills_the_process_at_the_point():
    program = "from cached import faults; faults.point('a.b'); print('once', flush=True); faults.point('a.b')"
    done = subprocess.run(
        [sys.executable, "-c", program], env={"CACHED_FAULT": "a.b@2:kill"}, capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == b"once\n"


@pytest.mark.parametrize("spec", ["a", "a:", ":kill", "a:explode", "a@x:kill", "a:sleep=long"])
def test_a_broken_plan_is_refused_by_name(spec):
    with pytest.raises(UsageError, match="fault plan"):
        faults.arm(spec)
