"""Three servers under one contract: the fake, an emulator that others wrote, and Cloud Storage itself."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pytest
from google.cloud import storage
from tests.gcs.fake import FakeGcs
from tests.gcs.fixtures import point_to

REAL = os.environ.get("CACHED_TEST_BUCKET", "")


@dataclass(frozen=True)
class Cloud:
    """A server under the contract: a client of it, a bucket, and a prefix that only this test uses."""

    client: storage.Client
    bucket: storage.Bucket
    prefix: str

    def blob(self, name: str, **options) -> storage.Blob:
        return self.bucket.blob(self.prefix + name, **options)


def judges(*, emulator_cannot: str = ""):
    """Run a test against all three. What the emulator cannot is expected to fail, so that it is noticed when it can."""
    wrong = (AssertionError, pytest.fail.Exception)
    unable = [pytest.mark.xfail(reason=f"gcp-storage-emulator {emulator_cannot}", raises=wrong, strict=True)]
    everyone = [
        "fake",
        pytest.param("emulator", marks=unable if emulator_cannot else []),
        pytest.param("bucket", marks=pytest.mark.real_bucket),
    ]
    return pytest.mark.parametrize("cloud", everyone, indirect=True)


@pytest.fixture
def cloud(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """The server that the test names, with an empty prefix in a bucket; what was stored there is removed."""
    if request.param == "bucket" and not REAL:
        pytest.skip("no real bucket: CACHED_TEST_BUCKET is not set")
    with _SERVERS[request.param]() as url:
        point_to(url, monkeypatch)
        client = storage.Client()
        bucket = client.bucket(REAL or "b") if request.param == "bucket" else client.bucket("b")
        prefix = f"cached-test-{uuid.uuid4().hex}/"
        yield Cloud(client, bucket, prefix)
        for blob in list(client.list_blobs(bucket, prefix=prefix)):
            blob.delete()
        client.close()


@contextmanager
def _fake() -> Iterator[str]:
    with FakeGcs() as fake:
        fake.bucket("b")
        yield fake.url
        assert not fake.errors


@contextmanager
def _emulator() -> Iterator[str]:
    from gcp_storage_emulator.server import create_server

    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="b")
    thread = server._api
    thread.daemon = True
    thread.start()
    assert thread.is_running.wait(60), "the emulator did not start"
    try:
        yield f"http://127.0.0.1:{thread._httpd.server_address[1]}"
    finally:
        server.stop()
        while thread.is_alive():
            time.sleep(0.01)


@contextmanager
def _real() -> Iterator[None]:
    yield None


_SERVERS: dict[str, type[AbstractContextManager[str | None]]] = {
    "fake": _fake,
    "emulator": _emulator,
    "bucket": _real,
}
