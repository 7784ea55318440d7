"""The stream that `cached` is compared with: over mutual TLS 1.3 from one process to another, which hashes it with
SHA-256, writes it to a file and syncs that.

    python -m bench.tls_stream receive FILE KEY_FILE     (prints its port, then the seconds from the connection on)
    python -m bench.tls_stream send FILE KEY_FILE PORT   (prints that it is ready, and begins with a line of its input)

Certificates, and so the cipher, are those of nodes. Both sides use Python's `ssl` on blocking sockets, buffers of
1 MiB, and no thread: hashing beside receiving costs more than it gains where the interpreter's lock is taken for each
record.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Final

from cached.peers import tls
from cached.peers.identity import Identity

BUFFER: Final = 1 << 20


def measure(source: Path, goal: Path, key_file: Path, count: int = 1) -> list[float]:
    """Send a file to so many processes at once, each from one of its own.

    Return for each the seconds from the connection until it was hashed and synced. `goal` is written, with a number
    added, and deleted.
    """
    with contextlib.ExitStack() as ends:
        receivers = [
            ends.enter_context(_end("receive", f"{goal}{number}", key_file)) for number in range(count)
        ]
        senders = [ends.enter_context(_end("send", str(source), key_file, _word(one))) for one in receivers]
        for sender in senders:
            _word(sender)
        for sender in senders:
            assert sender.stdin is not None
            sender.stdin.close()
        seconds = [float(_word(receiver)) for receiver in receivers]
    for number in range(count):
        Path(f"{goal}{number}").unlink()
    return seconds


def _end(role: str, path: str, key_file: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bench.tls_stream", role, path, str(key_file), *more]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _word(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _receive(goal: str, identity: Identity) -> None:
    context = identity.server_context()
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    plain, _ = listener.accept()
    began = time.monotonic()
    connection = context.wrap_socket(plain, server_side=True)
    handle = os.open(goal, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    buffer, whole, ended = memoryview(bytearray(BUFFER)), sha256(), False
    while not ended:
        got = 0
        while got < BUFFER and not ended:
            more = connection.recv_into(buffer[got:])
            got, ended = got + more, not more
        whole.update(buffer[:got])
        os.write(handle, buffer[:got])
    os.fsync(handle)
    whole.digest()
    print(time.monotonic() - began, flush=True)


def _send(source: str, identity: Identity, port: int) -> None:
    print("ready", flush=True)
    sys.stdin.readline()
    plain = socket.create_connection(("127.0.0.1", port))
    with identity.client_context().wrap_socket(plain, server_hostname=tls.ANY) as connection:
        buffer = memoryview(bytearray(BUFFER))
        with Path(source).open("rb", buffering=0) as file:
            while got := file.readinto(buffer):
                connection.sendall(buffer[:got])


def main() -> None:
    """Be one of the two processes."""
    role, path, key_file, *rest = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        identity = Identity.open(Path(folder), key_file=Path(key_file))
        if role == "receive":
            _receive(path, identity)
        else:
            _send(path, identity, int(rest[0]))


if __name__ == "__main__":
    main()
