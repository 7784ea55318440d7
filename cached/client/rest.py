"""Requests to `api.sock`: HTTP over a Unix socket with the standard library alone."""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from cached import wire
from cached.client.channel import Watcher
from cached.client.endpoint import Endpoint
from cached.client.pool import Pool
from cached.errors import CachedError, DaemonUnreachable, TimedOut

Value = TypeVar("Value")
Query = Mapping[str, str] | Sequence[tuple[str, str]]

#: Methods that may be sent again when the daemon went away before it answered.
_REPEATABLE: Final = frozenset({"GET", "PATCH"})


class Rest:
    """HTTP requests, each on a connection of its own while it lasts."""

    def __init__(self, endpoint: Endpoint, timeout: float) -> None:
        self._timeout = timeout
        self._pool: Pool[_UnixConnection] = Pool(
            lambda: _UnixConnection(endpoint, timeout), http.client.HTTPConnection.close
        )

    def ask(
        self,
        method: str,
        path: str,
        kind: type[Value],
        *,
        query: Query = (),
        body: Any = None,
        token: str = "",
    ) -> Value:
        """Send a request and return its answer as a value of `kind`; raises the daemon's error.

        `token` is the access token for Cloud Storage.
        """
        connection, response = self._send(method, path, query, body, _headers(token))
        try:
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._broken(error) from error
        self._pool.give(connection)
        _raise_error(response.status, data)
        return wire.decode(data, kind)

    def watch(
        self, path: str, kind: type[Value], watcher: Watcher | None, *, body: Any = None, token: str = ""
    ) -> Value:
        """POST long work and follow its lines; leaving early stops watching, not the work."""
        connection, response = self._send("POST", path, (), body, _headers(token))
        try:
            if response.status != 200:
                _raise_error(response.status, response.read())
            return _follow(response, kind, watcher)
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(error) from error
        finally:
            connection.close()

    def part(self, path: str, start: int, stop: int, *, query: Query, token: str) -> Part:
        """GET some bytes of what is at `path`, on a connection of its own until they are read; raises the daemon's
        error.
        """
        headers = {**_headers(token), "Range": f"bytes={start}-{stop - 1}"}
        connection, response = self._send("GET", path, query, None, headers)
        if response.status == 206:
            return Part(connection, response, self._pool.give)
        try:
            _raise_error(response.status, response.read())
            raise CachedError(f"the daemon answered with status {response.status} instead of a part")
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(error) from error
        finally:
            connection.close()

    def close(self) -> None:
        """Close idle connections."""
        self._pool.clear()

    def _send(
        self, method: str, path: str, query: Query, body: Any, headers: Mapping[str, str]
    ) -> tuple[_UnixConnection, http.client.HTTPResponse]:
        target = f"/v1/{path}" + (f"?{urlencode(query)}" if query else "")
        while True:
            connection, used = self._pool.take()
            if used and _is_stale(connection):
                connection.close()
                continue
            try:
                with contextlib.suppress(BrokenPipeError):  # it may have said why before it closed
                    connection.request(
                        method,
                        target,
                        body=None if body is None else wire.encode(body),
                        headers={
                            **headers,
                            **({"Content-Type": "application/json"} if body is not None else {}),
                        },
                    )
                return connection, connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if not (used and method in _REPEATABLE and isinstance(error, ConnectionError)):
                    raise self._broken(error) from error
            except BaseException:
                connection.close()
                raise

    def _broken(self, error: Exception) -> CachedError:
        if isinstance(error, TimeoutError):
            return TimedOut(
                f"the daemon did not answer within {self._timeout:g} s", hint="look at its log, or try again"
            )
        return DaemonUnreachable(
            "the daemon went away before it answered", hint="whether it did what was asked: ask it again"
        )


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, endpoint: Endpoint, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._endpoint = endpoint
        self._seconds = timeout

    def connect(self) -> None:
        self.sock = self._endpoint.connect("api.sock", socket.SOCK_STREAM, self._seconds)


class Part:
    """Bytes on their way; the connection is used again once all of them are read."""

    def __init__(
        self,
        connection: _UnixConnection,
        response: http.client.HTTPResponse,
        give_back: Callable[[_UnixConnection], None],
    ) -> None:
        self._connection = connection
        self._response = response
        self._give_back = give_back

    def readinto(self, buffer: memoryview) -> int:
        """Read some bytes; 0 when all have been read. Raises `OSError` or `HTTPException` when the daemon went away."""
        count = self._response.readinto(buffer)
        if not count and self._response.length:
            raise ConnectionResetError("the daemon went away")
        return count

    def close(self) -> None:
        """End it, whatever is still to come."""
        if self._response.isclosed() and not self._response.length:
            self._give_back(self._connection)
        else:
            self._response.close()
            self._connection.close()


def quoted(ref: str) -> str:
    """Return a reference as one segment of a URL's path."""
    return quote(ref, safe="")


def _headers(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _is_stale(connection: _UnixConnection) -> bool:
    """An idle connection that has something to say says that the daemon has closed it."""
    if connection.sock is None:
        return True
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


def _follow(response: http.client.HTTPResponse, kind: type[Value], watcher: Watcher | None) -> Value:
    while line := response.readline():
        value = msgspec.json.decode(line)
        if "result" in value:
            return wire.convert(value["result"], kind)
        if "error" in value:
            raise CachedError.from_wire(value)
        if watcher is not None and "progress" in value:
            watcher(wire.convert(value["progress"], wire.Progress))
    raise ConnectionResetError("the daemon went away")


def _raise_error(status: int, data: bytes) -> None:
    if status < 400:
        return
    try:
        value = msgspec.json.decode(data)
    except msgspec.DecodeError:
        value = {}
    if "error" not in value:
        raise CachedError(f"the daemon answered with status {status}")
    raise CachedError.from_wire(value)
