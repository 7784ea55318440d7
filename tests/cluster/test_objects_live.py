"""Objects of Cloud Storage through real daemons: several nodes, several users, a fake Cloud Storage in a process of its own."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.gcs.raw import same
from tests.gcs.remote import fake_process

pytestmark = pytest.mark.daemon


@pytest.fixture
def storage():
    with fake_process() as fake:
        fake.bucket("genomes")
        fake.bucket("lab")
        yield fake


def start(cluster, storage, names="ab", **settings):
    settings = {"origin_endpoint": json.dumps(storage.url)[1:-1], "objects_block": "1MiB", **settings}
    nodes = [cluster.start(name, **settings) for name in names]
    if len(nodes) > 1:
        cluster.together()
    return nodes


def as_(user):
    return {"CACHED_GCS_TOKEN": f"tok-{user}"}


def test_an_object_is_read_through_two_nodes_and_leaves_cloud_storage_once(cluster, storage):
    data = os.urandom(5_000_000)
    storage.put("genomes", "hs/chr1.fa", data)
    a, b = start(cluster, storage)
    assert same(a.cli("cat", "gs://genomes/hs/chr1.fa", text=False).stdout, data)
    assert same(b.cli("cat", "gs://genomes/hs/chr1.fa", text=False).stdout, data)
    assert same(a.cli("cat", "gs://genomes/hs/chr1.fa", text=False).stdout, data)
    assert storage.bytes_out == len(data)


def test_many_jobs_on_four_nodes_cost_one_read(cluster, storage):
    data = os.urandom(8_000_000)
    storage.put("genomes", "chr1", data)
    nodes = start(cluster, storage, "abcd")

    def read(node):
        with node.client() as client, client.open("gs://genomes/chr1") as file:
            return file.read() == data

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(read, nodes * 4))
    assert storage.bytes_out == len(data)


def test_each_user_reads_what_cloud_storage_lets_that_user_read(cluster, storage):
    storage.put("lab", "secret", b"for ada")
    storage.tokens["tok-ada"] = "ada"
    storage.tokens["tok-bob"] = "bob"
    storage.allow("lab", "ada", read=True, write=True)
    (a,) = start(cluster, storage, "a")
    assert a.cli("cat", "gs://lab/secret", env=as_("ada")).stdout == "for ada"
    denied = a.cli("cat", "gs://lab/secret", env=as_("bob"), check=False)
    assert denied.returncode == 4
    assert "gs://lab/secret" in denied.stderr
    assert a.cli("cat", "gs://lab/secret", check=False).returncode in (3, 4)
    assert a.cli("cat", "gs://lab/absent", env=as_("ada"), check=False).returncode == 3
    assert "tok-ada" not in a.log


def test_what_is_put_on_one_node_is_read_new_on_the_other_and_nothing_old_comes_back(cluster, storage):
    storage.bucket("scratch")
    a, b = start(cluster, storage, objects_freshness="60s")
    file = cluster.tree("out", {"f": "first"}) / "f"
    made = a.cli("put", file, "gs://scratch/out").json()
    assert made["generation"] == storage.generation("scratch", "out")
    assert b.cli("cat", "gs://scratch/out").stdout == "first"
    file.write_text("second")
    b.cli("put", file, "gs://scratch/out")
    assert a.cli("cat", "gs://scratch/out").stdout == "second"
    assert b.cli("cat", "gs://scratch/out").stdout == "second"
    refused = a.cli("put", file, "gs://scratch/out", "--if-generation", "0", check=False)
    assert refused.returncode == 1
    assert (
        "origin_changed"
        in a.cli("put", file, "gs://scratch/out", "--if-generation", "0", "--json", check=False).stderr
    )


def test_copies_outlive_a_killed_daemon(cluster, storage):
    data = os.urandom(3_000_000)
    storage.put("genomes", "chr1", data)
    (a,) = start(cluster, storage, "a")
    a.cli("cat", "gs://genomes/chr1", text=False)
    a.stop()
    a.restart()
    assert same(a.cli("cat", "gs://genomes/chr1", text=False).stdout, data)
    assert storage.bytes_out == len(data)
    a.kill()
    a.restart()
    assert same(a.cli("cat", "gs://genomes/chr1", text=False).stdout, data)


def test_the_end_of_a_scope_removes_what_a_batch_left_on_all_nodes_and_in_cloud_storage(cluster, storage):
    storage.bucket("scratch")
    a, b = start(cluster, storage)
    file = cluster.tree("out", {"f": "intermediate"}) / "f"
    a.cli("put", file, "gs://scratch/a", "--scope", "run7")
    b.cli("put", file, "gs://scratch/b", "--scope", "run7")
    b.cli("put", file, "gs://scratch/kept")
    a.cli("create", "s", cluster.tree("s", {"g": "x"}), "--scope", "run7")
    told = a.cli("scope", "end", "run7", "--delete-origin", "--dry-run").json()
    assert (told["sets"], told["origin_objects"]) == (1, 2)
    assert {item["node"] for item in told["items"] if item["kind"] == "object"} == {"a", "b"}
    assert storage.names("scratch") == ["a", "b", "kept"]
    a.cli("scope", "end", "run7", "--delete-origin")
    assert storage.names("scratch") == ["kept"]
    assert a.cli("show", "s", check=False).returncode == 3
    again = a.cli("scope", "end", "run7", "--delete-origin").json()
    assert (again["sets"], again["objects"], again["origin_objects"]) == (0, 0, 0)


def test_nodes_that_are_away_are_named_when_something_was_wanted_of_all_of_them(cluster, storage):
    storage.put("genomes", "chr1", b"bytes")
    a, b = start(cluster, storage)
    b.cli("cat", "gs://genomes/chr1")
    b.kill()
    cluster.wait_for(lambda: not all(item["alive"] for item in a.nodes()), what="b to be missed")
    cleared = a.cli("clear", check=False)
    assert cleared.returncode == 1
    (away,) = [item for item in cleared.json()["items"] if item["reason"]]
    assert away["node"] == "b"
    assert away["reason"].startswith("not seen for")
    ended = a.cli("scope", "end", "run7", check=False)
    assert ended.returncode == 1
    assert [item["node"] for item in ended.json()["items"] if item["reason"]] == ["b"]


def test_clear_makes_the_next_read_come_from_cloud_storage(cluster, storage):
    data = os.urandom(500_000)
    storage.put("genomes", "chr1", data)
    a, b = start(cluster, storage)
    a.cli("cat", "gs://genomes/chr1", text=False)
    before = storage.bytes_out
    cleared = a.cli("clear", "gs://genomes/").json()
    assert cleared["entries"] >= 1
    assert same(b.cli("cat", "gs://genomes/chr1", text=False).stdout, data)
    assert storage.bytes_out == before + len(data)


class Storm:
    """Objects that are written again and again, each version with bytes that name it, and read all the while."""

    def __init__(self, nodes) -> None:
        self.nodes = nodes
        #: The last version of each object whose writing was acknowledged.
        self.versions = dict.fromkeys(range(3), 0)
        self.wrong = []
        self.over = threading.Event()

    @staticmethod
    def text(number, version) -> bytes:
        return f"{number}:{version};".encode() * 5000

    def write(self, number):
        with self.nodes[number].client() as client:
            for version in range(1, 15):
                with client.open(f"gs://storm/{number}", "wb") as file:
                    file.write(self.text(number, version))
                self.versions[number] = version

    def read(self, node):
        with node.client() as client:
            while not self.over.is_set():
                for number, least in list(self.versions.items()):
                    if least:
                        self.look(client, number, least)

    def look(self, client, number, least):
        with client.open(f"gs://storm/{number}") as file:
            data = file.read()
        version = int(data.split(b";")[0].split(b":")[1])
        if version < least or data != self.text(number, version):
            self.wrong.append((number, least, version))


def test_readers_and_writers_at_once_see_no_old_and_no_mixed_bytes(cluster, storage):
    storage.bucket("storm")
    storm = Storm(start(cluster, storage, "abc", objects_freshness="10s"))
    with ThreadPoolExecutor(9) as pool:
        readers = [pool.submit(storm.read, node) for node in storm.nodes * 2]
        try:
            for writer in [pool.submit(storm.write, number) for number in storm.versions]:
                writer.result()
        finally:
            storm.over.set()
        for reader in readers:
            reader.result()
    assert storm.wrong == []


def test_http_readers_get_ranges_and_headers_of_an_object(cluster, storage):
    data = os.urandom(100_000)
    generation = storage.put("genomes", "chr1", data)
    (a,) = start(cluster, storage, "a")
    answer = a.http("GET", "/v1/objects/genomes/chr1", headers={"Range": "bytes=10-99"})
    assert (answer.status, answer.body) == (206, data[10:100])
    assert answer.headers["x-goog-generation"] == str(generation)
    assert a.http("GET", "/v1/objects/genomes/absent").status == 404
