"""What was acknowledged is there after kill -9, whole."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from cached.catalog.sqlite import Catalog
from tests.catalog import stream
from tests.catalog.samples import FakeClock

ROOT = Path(__file__).parents[2]


def acknowledged_before_a_kill(path, first, wanted):
    """Let a process write until it has acknowledged `wanted` sets, kill it; return all it acknowledged."""
    command = [sys.executable, "-m", "tests.catalog.stream", str(path), str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        lines = [process.stdout.readline() for _ in range(wanted + 1)]
        process.kill()
        lines += process.stdout.readlines()
    assert process.returncode == -9
    return {int(line) for line in lines if line.endswith(b"\n")} - {0}


@pytest.mark.crash
def test_everything_acknowledged_survives_kill_9_and_nothing_is_half_there(tmp_path):
    path = tmp_path / "catalog.db"
    acknowledged = set()
    for round_ in range(5):
        wanted = random.Random(round_).randint(1, 200)
        acknowledged |= acknowledged_before_a_kill(path, 1 + round_ * 10**6, wanted)
        catalog = Catalog.open(path, FakeClock())
        found = {int(row.id, 16) for row in catalog.read_now(lambda tx: tx.sets())}
        contents = {row.content for row in catalog.read_now(lambda tx: tx.contents())}
        replicas = {row.content for row in catalog.read_now(lambda tx: tx.replicas())}
        assert catalog.check() == []
        catalog.close()
        assert acknowledged <= found
        assert contents == replicas == {stream.content(number) for number in found}
    assert len(acknowledged) >= 5
