"""A small fake of Cloud Storage: a threaded HTTP/1.1 server with tokens, scripted faults and counters.

In a test's own process: `with FakeGcs() as gcs`. For daemons in other processes: `python -m tests.gcs.fake --port N`
(0 takes a free one; the address is printed), driven by `tests.gcs.remote.RemoteFake(url)` with the same methods.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import socket
import struct
import sys
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from tests.gcs import answers, remote
from tests.gcs.answers import Answer
from tests.gcs.counters import Counters, Limiter
from tests.gcs.faults import Fault, Faults, steps
from tests.gcs.request import Request, parse
from tests.gcs.service import Service
from tests.gcs.store import Conditions, Refusal, Store
from tests.gcs.tokens import Access
from tests.gcs.upload import Body, Dropped


class FakeGcs:
    """Cloud Storage on loopback, while the context lasts. `url` is the value for STORAGE_EMULATOR_HOST."""

    def __init__(self, port: int = 0) -> None:
        self._port = port
        self._store = Store()
        self._access = Access()
        self.service = Service(self._store, self._access)
        self.faults = Faults()
        self.counters = Counters()
        self.limiter = Limiter()
        #: The newest requests, oldest first.
        self.requests: deque[Request] = deque(maxlen=10_000)
        #: What went wrong in the fake itself; a test that finds something here found a bug of the fake.
        self.errors: list[BaseException] = []

    def __enter__(self) -> Self:
        self._server = _Server(self, self._port)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.faults.clear()
        self._server.shutdown()
        self._thread.join()
        self._server.close_all()

    def bucket(self, bucket: str, *, versioning: bool = False) -> None:
        """Make a bucket, open to all until somebody is allowed something."""
        self._store.create(bucket, versioning=versioning)

    def put(self, bucket: str, name: str, data: bytes, **meta: Any) -> int:
        """Store an object behind everybody's back (uncounted); its generation."""
        return self._store.put(bucket, name, bytes(data), Conditions(), **meta).generation

    def get(self, bucket: str, name: str) -> bytes:
        """The bytes stored now. `Refusal` (404) when there is no such object."""
        return self._store.get(bucket, name, None, Conditions()).data

    def generation(self, bucket: str, name: str) -> int:
        """The current generation, 0 when there is no such object."""
        live = self._store.bucket(bucket).live.get(name)
        return live.generation if live else 0

    def names(self, bucket: str) -> list[str]:
        return [stored.name for stored in self._store.names(bucket)]

    def delete(self, bucket: str, name: str) -> None:
        self._store.delete(bucket, name, None, Conditions())

    @property
    def tokens(self) -> dict[str, str]:
        """Access token -> user. Any other token is answered with 401."""
        return self._access.tokens

    def expire(self, token: str) -> None:
        """From now on the token is answered with 401."""
        self._access.expire(token)

    def allow(
        self, bucket: str, user: str, name: str | None = None, *, read: bool = True, write: bool = True
    ) -> None:
        """Grant rights on a bucket or one object, which closes it to all others. User "*" is everyone."""
        self._access.allow(bucket, user, name, read=read, write=write)

    def deny(self, bucket: str, user: str, name: str | None = None) -> None:
        """Take away all rights of a user on a bucket or one object."""
        self._access.deny(bucket, user, name)

    @property
    def counts(self) -> dict[str, int]:
        """Requests by kind; absent kinds count 0."""
        return self.counters.counts

    @property
    def bytes_out(self) -> int:
        return self.counters.bytes_out

    @property
    def bytes_in(self) -> int:
        return self.counters.bytes_in

    @property
    def peak(self) -> int:
        """The most requests under way at once."""
        return self.counters.peak

    def reset_counters(self) -> None:
        self.counters.reset()
        self.requests.clear()

    @property
    def rate(self) -> float | None:
        """Joint speed limit in bytes per second, None without limit."""
        return self.limiter.rate

    @rate.setter
    def rate(self, value: float | None) -> None:
        self.limiter.rate = value

    @property
    def stream_rate(self) -> float | None:
        """Speed limit of each connection in bytes per second, None without limit."""
        return self.limiter.stream

    @stream_rate.setter
    def stream_rate(self, value: float | None) -> None:
        self.limiter.stream = value


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def __init__(self, fake: FakeGcs, port: int) -> None:
        self.fake = fake
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        request.close()

    def close_all(self) -> None:
        self.server_close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):  # gone already
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if error is not None and not isinstance(error, OSError):
            self.fake.errors.append(error)


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    rbufsize = 1 << 20
    server: _Server
    _under_way: Request | None = None
    _unsent = 0

    def log_message(self, *args: object) -> None:
        """The counters are the log."""

    def do_GET(self) -> None:
        fake = self.server.fake
        length = None if self.headers.get("Transfer-Encoding") else int(self.headers.get("Content-Length", 0))
        body = Body(self.rfile, length, fake.limiter, fake.counters)
        if self.path.startswith(remote.CONTROL):
            self._send(remote.answer(fake, self.command, self.path, body), {})
            return
        request = parse(self.command, self.path, self.headers)
        fake.counters.begin(request.kind)
        self._under_way = request
        try:
            self._serve(request, body)
        except Dropped as dropped:
            self._end(abrupt=dropped.abrupt)
        finally:
            self._done()

    do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_GET  # noqa: N815

    def _done(self) -> None:
        """Count the request as over: before its last byte goes out, or a client could ask again too soon."""
        if self._under_way is not None:
            self._under_way.ended, self._under_way = time.monotonic(), None
            self.server.fake.counters.end()

    def _serve(self, request: Request, body: Body) -> None:
        fake = self.server.fake
        faults: dict[str, Fault] = {}
        try:
            fake.requests.append(request)
            fake.service.identify(request, body)
            faults = fake.faults.take(request)
            self._before(request, body, faults)
            answer = fake.service.answer(request, body, set(faults))
        except Refusal as refusal:
            answer = answers.of_refusal(refusal)
        body.drain()
        if "replace_between" in faults and answer.status < 300:
            data = faults["replace_between"].args.get("data", b"replaced")
            fake.put(request.bucket, request.name, data.encode() if isinstance(data, str) else data)
        if "lost_reply" in faults:
            raise Dropped
        self._send(answer, faults if answer.media else {})

    def _before(self, request: Request, body: Body, faults: dict[str, Fault]) -> None:
        """Faults that come before anything is done."""
        fake = self.server.fake
        if "revoke" in faults:
            fake.deny(request.bucket, faults["revoke"].args.get("user", request.user))
        if "stall" in faults and request.kind != "media":
            fake.faults.stall(faults["stall"])
        if "reset" in faults:
            raise Dropped(abrupt=True)
        if "cut" in faults and request.kind != "media":
            body.cut_at = faults["cut"].at
        for kind, fault in faults.items():
            if kind.isdigit():
                wait = {"Retry-After": str(fault.args["retry_after"])} if "retry_after" in fault.args else {}
                raise Refusal(int(kind), "A scripted fault.", wait)

    def _send(self, answer: Answer, faults: dict[str, Fault]) -> None:
        self.send_response_only(answer.status)
        if answer.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif "Content-Length" not in answer.headers and answer.status not in (204, 304):
            self.send_header("Content-Length", str(len(answer.body)))
        for key, value in answer.headers.items():
            self.send_header(key, value)
        if not answer.media:
            head, self._headers_buffer = b"".join([*self._headers_buffer, b"\r\n"]), []
            self._done()
            self.connection.sendall(head if self.command == "HEAD" else head + bytes(answer.body))
            return
        self._unsent = len(answer.body)
        if not self._unsent:
            self._done()
        self.end_headers()
        for step in steps(memoryview(answer.body), faults):
            self._do(step, chunked=answer.chunked)
        if answer.chunked:
            self.connection.sendall(b"0\r\n\r\n")

    def _do(self, step: memoryview | bytes | Fault, *, chunked: bool) -> None:
        """Send a piece of media, or let a fault happen in the middle of it."""
        fake = self.server.fake
        if isinstance(step, Fault):
            if step.kind == "cut":
                raise Dropped
            fake.faults.stall(step)
            return
        at = 0
        while at < len(step):
            piece = step[at : at + fake.limiter.piece]
            fake.limiter.take(len(piece))
            fake.counters.add_out(len(piece))
            if chunked:
                piece = b"%x\r\n%b\r\n" % (len(piece), piece)
            self._unsent -= len(piece)
            if self._unsent <= 0:
                self.connection.sendall(piece[:-1])
                self._done()
                piece = piece[-1:]
            self.connection.sendall(piece)
            at += fake.limiter.piece

    def _end(self, *, abrupt: bool) -> None:
        """End the connection; a reset throws away what is still on its way."""
        self.close_connection = True
        if abrupt:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def main() -> None:
    """Serve until a signal or the end of standard input."""
    options = argparse.ArgumentParser(prog="tests.gcs.fake")
    options.add_argument("--port", type=int, default=0)
    port = options.parse_args().port
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with FakeGcs(port) as fake:
        sys.stdout.write(fake.url + "\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()
