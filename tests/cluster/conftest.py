"""Clusters of real daemons: the fixture of `tests/daemons`, and what these tests say again and again."""

from __future__ import annotations

from tests.daemons.conftest import cluster

__all__ = ["cluster"]
