"""Drive a fake that runs in another process: control requests under `/_fake/`, uncounted and without rights."""

from __future__ import annotations

import base64
import http.client
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from tests.gcs import answers
from tests.gcs.answers import Answer
from tests.gcs.store import Refusal
from tests.gcs.upload import Body

if TYPE_CHECKING:
    from tests.gcs.fake import FakeGcs

CONTROL = "/_fake/"
_METHODS = {"bucket", "generation", "names", "delete", "expire", "allow", "deny", "reset_counters"}


def answer(fake: FakeGcs, method: str, path: str, body: Body) -> Answer:
    """The server's side: object bytes as they are, everything else a call in JSON."""
    try:
        if path == CONTROL + "call":
            call = json.loads(body.read(), object_hook=_unpacked)
            return answers.of_json({"result": _call(fake, call["method"], call["args"], call["kwargs"])})
        parts = urlsplit(path)
        bucket, name = (unquote(part) for part in parts.path.removeprefix(CONTROL + "objects/").split("/", 1))
        if method == "PUT":
            return answers.of_json(
                {"result": fake.put(bucket, name, body.read(), **json.loads(unquote(parts.query)))}
            )
        return Answer(200, {}, fake.get(bucket, name))
    except Refusal as refusal:
        return answers.of_refusal(refusal)


def _call(fake: FakeGcs, method: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    special = {
        "token": fake.tokens.__setitem__,
        "forget": fake.tokens.__delitem__,
        "tokens": lambda: fake.tokens,
        "rate": lambda value: setattr(fake, "rate", value),
        "stream_rate": lambda value: setattr(fake, "stream_rate", value),
        "fault": lambda *a, **k: fake.faults.number(fake.faults.add(*a, **k)),
        "faulted": lambda number: fake.faults.added[number].done,
        "clear_faults": fake.faults.clear,
        "state": lambda: _state(fake),
        "media": lambda: [(one.bucket, one.name, one.range) for one in fake.requests if one.kind == "media"],
        "times": lambda: [(one.began, one.ended) for one in fake.requests if one.kind == "media"],
    }
    function = special.get(method) or getattr(fake, method if method in _METHODS else "")
    return function(*args, **kwargs)


def _state(fake: FakeGcs) -> dict[str, Any]:
    state = {key: getattr(fake, key) for key in ("counts", "bytes_out", "bytes_in", "peak", "rate")}
    return state | {"errors": [repr(error) for error in fake.errors]}


def _packed(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    raise TypeError(f"a fake in another process cannot be given {value!r}; match faults with a mapping")


def _unpacked(found: dict[str, Any]) -> Any:
    return base64.b64decode(found["base64"]) if set(found) == {"base64"} else found


class RemoteFake:
    """The methods of `FakeGcs`, for a fake in another process. Faults are matched by mappings, not by functions."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.tokens: MutableMapping[str, str] = _Tokens(self)
        self.faults = _Faults(self)

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        body = json.dumps({"method": method, "args": args, "kwargs": kwargs}, default=_packed).encode()
        return json.loads(self._ask("POST", "call", body))["result"]

    def put(self, bucket: str, name: str, data: bytes, **meta: Any) -> int:
        where = f"objects/{quote(bucket, safe='')}/{quote(name, safe='')}?{quote(json.dumps(meta))}"
        return int(json.loads(self._ask("PUT", where, data))["result"])

    def get(self, bucket: str, name: str) -> bytes:
        return self._ask("GET", f"objects/{quote(bucket, safe='')}/{quote(name, safe='')}", None)

    def bucket(self, bucket: str, *, versioning: bool = False) -> None:
        self.call("bucket", bucket, versioning=versioning)

    def generation(self, bucket: str, name: str) -> int:
        return int(self.call("generation", bucket, name))

    def names(self, bucket: str) -> list[str]:
        return list(self.call("names", bucket))

    def delete(self, bucket: str, name: str) -> None:
        self.call("delete", bucket, name)

    def expire(self, token: str) -> None:
        self.call("expire", token)

    def allow(
        self, bucket: str, user: str, name: str | None = None, *, read: bool = True, write: bool = True
    ) -> None:
        self.call("allow", bucket, user, name, read=read, write=write)

    def deny(self, bucket: str, user: str, name: str | None = None) -> None:
        self.call("deny", bucket, user, name)

    def reset_counters(self) -> None:
        self.call("reset_counters")

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.call("state")["counts"])

    @property
    def media(self) -> list[tuple[str, str, str | None]]:
        """Bucket, object and range of the newest requests for bytes, oldest first."""
        return [(bucket, name, wanted) for bucket, name, wanted in self.call("media")]

    @property
    def times(self) -> list[tuple[float, float | None]]:
        """When each of `media` began and ended, in seconds of the monotonic clock; None: it is under way."""
        return [(began, ended) for began, ended in self.call("times")]

    @property
    def bytes_out(self) -> int:
        return int(self.call("state")["bytes_out"])

    @property
    def bytes_in(self) -> int:
        return int(self.call("state")["bytes_in"])

    @property
    def peak(self) -> int:
        return int(self.call("state")["peak"])

    @property
    def errors(self) -> list[str]:
        return list(self.call("state")["errors"])

    @property
    def rate(self) -> float | None:
        rate: float | None = self.call("state")["rate"]
        return rate

    @rate.setter
    def rate(self, value: float | None) -> None:
        self.call("rate", value)

    def limit_streams(self, value: float | None) -> None:
        """Limit each connection to so many bytes per second; None: no limit."""
        self.call("stream_rate", value)

    def _ask(self, method: str, path: str, body: bytes | None) -> bytes:
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=60)
        try:
            connection.request(method, CONTROL + path, body)
            reply = connection.getresponse()
            data = reply.read()
        finally:
            connection.close()
        if reply.status != 200:
            raise Refusal(reply.status, data.decode(errors="replace"))
        return data


class _Tokens(MutableMapping[str, str]):
    def __init__(self, fake: RemoteFake) -> None:
        self._fake = fake

    def _all(self) -> dict[str, str]:
        return dict(self._fake.call("tokens"))

    def __getitem__(self, token: str) -> str:
        return self._all()[token]

    def __setitem__(self, token: str, user: str) -> None:
        self._fake.call("token", token, user)

    def __delitem__(self, token: str) -> None:
        self._fake.call("forget", token)

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


class _RemoteFault:
    def __init__(self, fake: RemoteFake, number: int) -> None:
        self._fake, self._number = fake, number

    @property
    def done(self) -> int:
        """How often the fault happened."""
        return int(self._fake.call("faulted", self._number))


class _Faults:
    def __init__(self, fake: RemoteFake) -> None:
        self._fake = fake

    def add(
        self, kind: str, match: dict[str, Any] | None = None, times: int | None = 1, **args: Any
    ) -> _RemoteFault:
        return _RemoteFault(self._fake, self._fake.call("fault", kind, match, times, **args))

    def clear(self) -> None:
        self._fake.call("clear_faults")


@contextmanager
def fake_process(port: int = 0) -> Iterator[RemoteFake]:
    """A fake in a process of its own, for tests with real daemons and for measurements."""
    command = [sys.executable, "-m", "tests.gcs.fake", "--port", str(port)]
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url, "the fake did not start"
            yield RemoteFake(url)
        finally:
            process.kill()
