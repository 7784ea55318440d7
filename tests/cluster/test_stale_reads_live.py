"""No acknowledged write is overlooked, whoever is killed or stopped around it, with a window of freshness or without."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from cached.errors import CachedError
from tests.cluster.kit import client_of
from tests.gcs.remote import fake_process

pytestmark = pytest.mark.daemon


@pytest.fixture
def storage():
    with fake_process() as fake:
        fake.bucket("lab")
        yield fake


def start(cluster, storage, window):
    nodes = [cluster.start(name, origin_endpoint=storage.url, objects_freshness=window) for name in "abc"]
    cluster.together()
    return nodes


def read(node):
    with client_of(node) as client:
        return client.read_object("gs://lab/o")


def write(node, data):
    with client_of(node) as client:
        client.put(data, "gs://lab/o")


@pytest.mark.parametrize("window", ["0s", "2s"])
def test_a_writer_killed_when_cloud_storage_has_it_leaves_nobody_reading_the_old_one_after_the_next_write(
    cluster, storage, window
):
    a, b, c = start(cluster, storage, window)
    write(a, b"first")
    assert [read(node) for node in (a, b, c)] == [b"first"] * 3
    storage.faults.add("lost_reply", {"kind": "upload"})
    fault = storage.faults.add("stall", {"kind": "stat"})
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write, a, b"never acknowledged")
        cluster.wait_for(lambda: fault.done, what="cloud storage to have it")
        a.kill()
        storage.faults.clear()
        assert isinstance(writing.exception(), CachedError | OSError)
    if window == "0s":
        assert [read(node) for node in (b, c)] == [b"never acknowledged"] * 2
    write(b, b"second")
    assert [read(node) for node in (b, c)] == [b"second"] * 2
    a.restart()
    assert read(a) == b"second"


class Witness:
    """Numbers written one after the other, and what readers see who asked after one was acknowledged."""

    def __init__(self) -> None:
        self.least, self.old, self.reads, self.over = 0, [], 0, threading.Event()

    def write(self, *nodes):
        with client_of(nodes[0]) as one, client_of(nodes[1]) as other:
            for number, client in zip(itertools.count(1), itertools.cycle((one, other)), strict=False):
                if self.over.is_set():
                    break
                client.put(str(number).encode(), "gs://lab/o")
                self.least = number

    def read(self, node):
        with client_of(node) as client:
            while not self.over.is_set():
                least = self.least
                if least:
                    seen = int(client.read_object("gs://lab/o"))
                    self.reads += 1
                    if seen < least:
                        self.old.append((node.name, least, seen))


@pytest.mark.parametrize("window", ["0s", "1s"])
def test_a_node_that_is_stopped_and_goes_on_reads_nothing_old(cluster, storage, window):
    a, b, c = start(cluster, storage, window)
    witness = Witness()
    with ThreadPoolExecutor(5) as pool:
        work = [pool.submit(witness.write, a, b)]
        work += [pool.submit(witness.read, node) for node in (a, b, c, c)]

        def goes_on(count):
            least = witness.least + count
            cluster.wait_for(
                lambda: witness.least >= least or any(each.done() for each in work), what="writes to go on"
            )

        try:
            goes_on(3)
            for _ in range(3):
                c.pause()
                goes_on(1)
                c.resume()
                goes_on(3)
        finally:
            c.resume()
            witness.over.set()
        for each in work:
            each.result()
    assert witness.old == []
    assert witness.reads > 10
