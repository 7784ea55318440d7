"""Fixtures for tests that talk to the fake; import `gcs` (and `client`) into a conftest or test module.

The Google client reads STORAGE_EMULATOR_HOST when it is made, so the variable is set first, and only for one test.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.cloud import storage
from tests.gcs.fake import FakeGcs


@pytest.fixture
def gcs(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGcs]:
    """A fake Cloud Storage with one open bucket `b`; the environment points to it."""
    with FakeGcs() as fake:
        fake.bucket("b")
        point_to(fake.url, monkeypatch)
        yield fake
        assert not fake.errors, f"the fake itself failed: {fake.errors}"


@pytest.fixture
def client(gcs: FakeGcs) -> Iterator[storage.Client]:
    """The real client, anonymous, talking to the fake."""
    made = storage.Client()
    yield made
    made.close()


def point_to(url: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point clients to an emulator (None: to Cloud Storage itself), without their hidden request for labels."""
    if url is None:
        monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    else:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
    monkeypatch.setenv("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "1")
