"""Somebody else fills the file system under the stores: objects go through all the same, and nothing is left behind."""

import contextlib
import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from cached.errors import CachedError
from tests.cluster.kit import client_of, copies
from tests.gcs.raw import same
from tests.gcs.remote import fake_process

MIB = 1 << 20
pytestmark = [
    pytest.mark.daemon,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system"),
]


@pytest.fixture
def storage():
    with fake_process() as fake:
        fake.bucket("data")
        yield fake


@pytest.fixture
def small(cluster):
    """A file system of 64 MiB, on which everything of the cluster's nodes lies."""
    place = cluster.root / "nodes"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=755", "none", str(place)], check=True)
    yield place
    for node in cluster.nodes.values():
        if node.running:
            node.stop()
    subprocess.run(["umount", str(place)], check=True)


class Filler:
    """A foreign file that takes all there is, again and again, and gives it back."""

    def __init__(self, place) -> None:
        self.path, self.over, self.times = place / "foreign", threading.Event(), 0

    def fill(self):
        with contextlib.suppress(OSError), self.path.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))

    def run(self):
        while not self.over.is_set():
            self.fill()
            self.times += 1
            self.over.wait(0.15)
            self.path.unlink()
            self.over.wait(0.05)


def read_all(node, contents, filler):
    with client_of(node) as client:
        while filler.times < 5:
            for name, data in contents.items():
                assert same(client.read_object(f"gs://data/{name}"), data)
            client.clear("gs://data/")
        return ""


def write_some(node, storage, number):
    """Write until something is refused; return how."""
    with client_of(node) as client:
        for turn in range(6):
            name, data = f"w{number}-{turn}", os.urandom(2 * MIB)
            try:
                client.put(data, f"gs://data/{name}")
            except CachedError as error:
                return error.code
            assert same(storage.get("data", name), data)
        return ""


def test_reads_and_writes_go_through_while_others_fill_the_disk_and_room_is_right_afterwards(
    cluster, storage, small
):
    node = cluster.start(
        "a", origin_endpoint=storage.url, store_memory="", objects_disk="40MiB", store_capacity="60MiB"
    )
    contents = {f"o{number}": os.urandom(3 * MIB + number) for number in range(10)}
    for name, data in contents.items():
        storage.put("data", name, data)
    filler = Filler(small)
    with ThreadPoolExecutor(7) as pool:
        filling = pool.submit(filler.run)
        work = [pool.submit(read_all, node, contents, filler) for _ in range(4)]
        work += [pool.submit(write_some, node, storage, number) for number in range(2)]
        try:
            results = [each.result() for each in work]
        finally:
            filler.over.set()
        filling.result()
    assert set(results[4:]) <= {"", "no_space"}

    def room():
        return node.status()["objects"]["tiers"]["disk"]

    cluster.wait_for(lambda: room()["reserved_bytes"] == 0, what="nothing to be reserved")
    cluster.wait_for(
        lambda: room()["used_bytes"] == sum(path.stat().st_blocks * 512 for path in copies(node)),
        what="the room to be what the files take",
    )
    assert not [path for path in copies(node) if path.name.endswith(".new")]
    assert same(node.cli("cat", "gs://data/o0", text=False).stdout, contents["o0"])
    node.cli("clear")
    cluster.wait_for(
        lambda: room()["used_bytes"] == 0 and copies(node) == [], what="everything to be free again"
    )
    node.restart()
    assert same(node.cli("cat", "gs://data/o1", text=False).stdout, contents["o1"])


def test_on_a_disk_that_stays_full_a_write_ends_well_or_in_words_and_nothing_of_it_stays(
    cluster, storage, small
):
    node = cluster.start("a", origin_endpoint=storage.url, store_memory="", store_capacity="60MiB")
    data = os.urandom(2 * MIB)
    file = cluster.tree("out", {"f": data}) / "f"
    storage.put("data", "o", data)
    filler = Filler(small)
    filler.fill()
    assert same(node.cli("cat", "gs://data/o", text=False).stdout, data)
    node.cli("put", file, "gs://data/plain")
    refused = node.cli("put", "--json", file, "gs://data/scoped", "--scope", "run7", check=False)
    assert refused.error["code"] == "no_space"
    answer = node.http("PUT", "/v1/objects/data/spooled", data)
    assert (answer.status, answer.json()["error"]["code"]) == (507, "no_space")
    assert storage.names("data") == ["o", "plain"]
    assert node.status()["objects"]["tiers"]["disk"]["reserved_bytes"] == 0
    assert copies(node) == list((node.disk / "incoming").iterdir()) == []
    filler.path.unlink()
    assert node.http("PUT", "/v1/objects/data/spooled", data).status == 200
    node.cli("put", file, "gs://data/scoped", "--scope", "run7")
    node.cli("scope", "end", "run7", "--delete-origin")
    assert storage.names("data") == ["o", "plain", "spooled"]
    assert node.status()["objects"]["tiers"]["disk"]["used_bytes"] == 2 * MIB
