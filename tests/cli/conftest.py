"""What the tests of the command line share: one invocation in this process, a client that records."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import click.testing
import pytest
from cached import wire

from cached_cli.main import cached
from cached_cli.session import Session

SET_ID = "0123456789abcdef0123456789abcdef"


def set_view(**changes: Any) -> wire.SetView:
    """A committed set as the daemon tells of it."""
    facts: dict[str, Any] = {
        "name": "nr",
        "owner": "alice",
        "id": SET_ID,
        "content": "c" * 64,
        "revision": 1,
        "bytes": 3 << 20,
        "files": 2,
        "state": "COMMITTED",
        "requirements": "",
        "methods": ("bittorrent", "direct"),
        "share": "private",
        "tier": "disk",
        "replicas_wanted": -1,
        "originator": "n1",
        "lease": wire.LeaseView(expires_at="2030-01-01T00:00:00Z", seconds_left=86_400),
        "replicas": [replica("n1")],
    }
    return wire.SetView(**{**facts, **changes})


def replica(node: str, **changes: Any) -> wire.ReplicaView:
    """A committed replica on `node`."""
    facts = {
        "host": "h",
        "state": "COMMITTED",
        "tier": "disk",
        "bytes_present": 3 << 20,
        "lease_seconds_left": 60,
    }
    return wire.ReplicaView(node=node, **{**facts, **changes})


@dataclass
class FakeClient:
    """Answers each verb with what the test put there, or raises it, and remembers what it was asked."""

    answers: dict[str, Any] = field(default_factory=dict)
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)

    def __getattr__(self, verb: str) -> Any:
        def call(*args: Any, **settings: Any) -> Any:
            report = settings.pop("progress", None)
            self.calls.append((verb, args, settings))
            answer = self.answers[verb]
            answer = answer(report) if callable(answer) else answer
            if isinstance(answer, BaseException):
                raise answer
            return answer

        return call

    @property
    def last(self) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        """The latest request."""
        return self.calls[-1]


@dataclass
class Ran:
    """What one invocation left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Stdout as JSON."""
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """Stderr as a JSON error."""
        return json.loads(self.err)["error"]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    """The client that every command gets."""
    fake = FakeClient()
    monkeypatch.setattr(Session, "client", lambda _self, timeout=30: fake)
    return fake


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch):
    """Run `cached` with arguments, in this process."""
    monkeypatch.delenv("CACHED_RUNTIME_DIR", raising=False)

    def invoke(*arguments: str, **settings: Any) -> Ran:
        result = click.testing.CliRunner().invoke(cached, list(arguments), **settings)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return invoke
