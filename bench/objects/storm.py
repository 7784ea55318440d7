"""Writers replace objects while readers read them on all nodes, and rights are taken away and given back meanwhile.

Real daemons. Every reader process is a Unix user of its own, for a node lets a user in again within the freshness
window without asking; that needs root, and without it only the window of zero is measured. Each object has one writer,
which notes a version before and after it is written. Of a read is demanded:

stale    not a version older than the newest that was written before the read began
mixed    all bytes of one version, which was begun before the read ended
denied   not to be refused to those who have the right the whole time
allowed  not to be served to those who have been without the right for longer than the window

A part of the writes goes past the nodes, straight into Cloud Storage, where the window is zero.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

from cached.client import Client
from cached.errors import Forbidden, OriginChanged

from bench.objects import place
from bench.objects.rights import _SHARED, Rights, judged
from bench.report import Figure

NODES: Final = 3
WRITERS: Final = 10
#: Objects of each writer.
_EACH: Final = 2
OBJECTS: Final = WRITERS * _EACH
#: Reader processes, each a user, and threads in each; those from the half on have no right to every second object.
USERS: Final = 10
_THREADS: Final = 5
_HALF: Final = USERS // 2
_FIRST_UID: Final = 61_000
#: Seconds between two writes of a writer, and two changes of a right.
_PAUSE: Final = 0.05
_CHANGE: Final = 0.1
#: Each so many-th write goes past the nodes.
_PAST: Final = 5
_COUNTED: Final = ("reads", "refused", "stale", "mixed", "denied", "allowed", "overtaken", "failed")


@dataclass
class Shared:
    """What all processes see."""

    rights: Rights
    begun: Any
    written: Any
    left: Any
    counts: Any
    window: float
    runtimes: list[Any]


def content(number: int, version: int) -> bytes:
    """Return the bytes of one version; sizes differ, the first object takes two blocks."""
    unit = f"{number}:{version};".encode()
    size = (1_300_000 if number == 0 else 2_000 * (number + 1)) + 1_000 * (version % 7)
    return unit * (size // len(unit))


def run(reads: int, window: int) -> dict[str, int]:
    """Have a storm of so many reads; return what was counted."""
    with place.storage("storm") as storage, place.cluster() as made:
        nodes = place.nodes(made, storage, NODES, objects_freshness=f"{window}s", objects_block="1MiB")
        shared = Shared(
            rights=Rights(USERS, OBJECTS),
            begun=_SHARED.RawArray("q", OBJECTS),
            written=_SHARED.RawArray("q", OBJECTS),
            left=_SHARED.Value("q", reads),
            counts=_SHARED.Array("q", len(_COUNTED)),
            window=window,
            runtimes=[node.runtime for node in nodes],
        )
        _open_up(storage, shared)
        with Client(nodes[0].runtime, token="writer") as client:
            for number in range(OBJECTS):
                _write(shared, number, lambda data, number=number: client.put(data, _address(number)))
        readers = [_SHARED.Process(target=_user, args=(user, shared)) for user in range(USERS)]
        for reader in readers:
            reader.start()
        try:
            _while_they_read(readers, storage, shared)
        finally:
            for reader in readers:
                reader.kill()
                reader.join()
        return dict(zip(_COUNTED, shared.counts, strict=True))


def _open_up(storage: Any, shared: Shared) -> None:
    storage.tokens["writer"] = "writer"
    for user in range(USERS):
        storage.tokens[f"user-{user}"] = f"user-{user}"
    for number in range(OBJECTS):
        storage.allow("storm", "writer", str(number), read=True, write=True)
        for user in range(USERS):
            _set(storage, shared, user, number, allowed=user < _HALF or number % 2 == 0)


def _set(storage: Any, shared: Shared, user: int, number: int, *, allowed: bool) -> None:
    def make() -> None:
        if allowed:
            storage.allow("storm", f"user-{user}", str(number), read=True, write=False)
        else:
            storage.deny("storm", f"user-{user}", str(number))

    shared.rights.set(user, number, make, allowed=allowed)


def _address(number: int) -> str:
    return f"gs://storm/{number}"


def _write(shared: Shared, number: int, put: Any) -> None:
    version = shared.begun[number] + 1
    shared.begun[number] = version
    put(content(number, version))
    shared.written[number] = version


def _while_they_read(readers: list[Any], storage: Any, shared: Shared) -> None:
    """Write, and change rights, until the readers have done."""
    over, wrong = threading.Event(), []

    def guarded(work: Any, *args: Any) -> None:
        try:
            work(*args, storage, shared, over)
        except BaseException as error:  # noqa: BLE001 - raised below
            wrong.append(error)
            over.set()

    threads = [threading.Thread(target=guarded, args=(_writer, number)) for number in range(WRITERS)]
    threads.append(threading.Thread(target=guarded, args=(_change,)))
    for thread in threads:
        thread.start()
    try:
        while any(reader.is_alive() for reader in readers) and not over.is_set():
            time.sleep(0.1)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    if wrong:
        raise wrong[0]
    if any(reader.exitcode for reader in readers):
        raise AssertionError(f"readers ended with {[reader.exitcode for reader in readers]}")


def _writer(me: int, storage: Any, shared: Shared, over: threading.Event) -> None:
    with Client(shared.runtimes[me % NODES], token="writer") as client:
        turn = 0
        while not over.wait(_PAUSE):
            turn += 1
            number = me * _EACH + turn % _EACH
            if not shared.window and turn % _PAST == 0:
                _write(shared, number, lambda data, number=number: storage.put("storm", str(number), data))
            else:
                _write(shared, number, lambda data, number=number: client.put(data, _address(number)))


def _change(storage: Any, shared: Shared, over: threading.Event) -> None:
    """Take rights from users of the second half on even objects, and give back what was taken long enough ago."""
    taken: list[tuple[int, int, float]] = []
    turn = 0
    while not over.wait(_CHANGE):
        turn += 1
        user, number = _HALF + turn % (USERS - _HALF), 2 * (turn % (OBJECTS // 2))
        if all((user, number) != one[:2] for one in taken):
            _set(storage, shared, user, number, allowed=False)
            taken.append((user, number, time.monotonic() + 2 * shared.window + 1))
        while taken and taken[0][2] <= time.monotonic():
            user, number, _ = taken.pop(0)
            _set(storage, shared, user, number, allowed=True)


def _user(user: int, shared: Shared) -> None:
    """The process of one user."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(_FIRST_UID + user)
        os.setuid(_FIRST_UID + user)
    clients = [Client(runtime, token=f"user-{user}") for runtime in shared.runtimes]
    threads = [
        threading.Thread(target=_read_on, args=(user, one, clients, shared)) for one in range(_THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _read_on(user: int, turn: int, clients: list[Client], shared: Shared) -> None:
    found: Counter[str] = Counter()
    step = 0
    while _one_more(shared):
        step += 1
        number = (user * 7 + turn * 3 + step) % OBJECTS
        for what in _read(user, number, clients[(turn + step) % NODES], shared):
            found[what] += 1
    with shared.counts.get_lock():
        for at, what in enumerate(_COUNTED):
            shared.counts[at] += found[what]


def _one_more(shared: Shared) -> bool:
    with shared.left.get_lock():
        shared.left.value -= 1
        return bool(shared.left.value >= 0)


def _read(user: int, number: int, client: Client, shared: Shared) -> list[str]:
    """Read once; return what is to be counted of it."""
    before, least, began = shared.rights.look(user, number), shared.written[number], time.monotonic()
    data = None
    try:
        data = client.read_object(_address(number))
    except Forbidden:
        pass
    except OriginChanged:
        return ["reads", "overtaken"]
    except Exception as error:  # noqa: BLE001 - a figure of its own
        print(f"user {user}, object {number}: {error!r}", flush=True)
        return ["reads", "failed"]
    right = judged(before, shared.rights.look(user, number), began, shared.window)
    if data is None:
        return ["reads", "refused", *(["denied"] if right else [])]
    return ["reads", *(["allowed"] if right is False else []), *faults_of(number, data, least, shared)]


def faults_of(number: int, data: bytes, least: int, shared: Shared) -> list[str]:
    """Say what is wrong with bytes that were read, none older than version `least` being right."""
    head = data[:40].split(b";")[0].split(b":")
    version = int(head[1]) if len(head) == 2 and head[1].isdigit() else -1
    if version < 0 or version > shared.begun[number] or data != content(number, version):
        return ["mixed"]
    return ["stale"] if version < least else []


def measure(asked: Any) -> tuple[dict[str, Any], list[Figure]]:
    """Return the parameters and figures."""
    found: list[Figure] = []
    windows = (0, 5) if os.geteuid() == 0 else (0,)
    for window in windows:
        began = time.perf_counter()
        counts = run(asked.reads // len(windows), window)
        seconds = time.perf_counter() - began
        name = f"window {window} s"
        found += [
            Figure(f"{name}: {what}", counts[what], "", 0, "==")
            for what in ("stale", "mixed", "denied", "allowed")
        ]
        found += [
            Figure(f"{name}: {what}", counts[what]) for what in ("reads", "refused", "overtaken", "failed")
        ]
        found.append(Figure(f"{name}: took", seconds, "s"))
    parameters = {"nodes": NODES, "writers": WRITERS, "readers": USERS * _THREADS, "objects": OBJECTS}
    return parameters | {"reads": asked.reads, "windows": list(windows)}, found
