"""A Redis that real daemons share: small objects come from it, and its loss is felt and survived."""

import json
import os

import pytest
from tests.gcs.raw import same
from tests.gcs.remote import fake_process
from tests.objects.redis_kit import CACHE, Server, needs_redis

pytestmark = [pytest.mark.daemon, needs_redis]


def events(node):
    return node.status()["counters"]


def test_nodes_share_small_objects_in_redis_and_go_on_without_it(cluster, tmp_path_factory):
    folder = cluster.root / "redis"
    server = Server(folder, *CACHE)
    data = os.urandom(200_000)
    try:
        with fake_process() as storage:
            storage.bucket("genomes")
            names = [f"small{number}" for number in range(12)]
            for name in (*names, "later"):
                storage.put("genomes", name, data)
            settings = {"origin_endpoint": storage.url, "objects_redis": server.url}
            a = cluster.start("a", **settings)
            b = cluster.start("b", **settings)
            cluster.together()

            def read(node, name):
                return same(node.cli("cat", f"gs://genomes/{name}", text=False).stdout, data)

            for name in names:
                assert read(a, name)
            cluster.wait_for(lambda: server.raw().keys(), what="an object in redis")
            a.kill()  # so that nobody but redis has them
            before = storage.bytes_out
            for name in names:
                assert read(b, name)
            # A machine that starves may answer too late for some: these are read from Cloud Storage.
            assert storage.bytes_out - before < len(names) * len(data), "redis gave nothing"
            before = storage.bytes_out
            server.kill()
            assert read(b, "later"), "without redis the node reads from Cloud Storage"
            assert storage.bytes_out == before + len(data)
            server.start()
            a.restart()
            cluster.wait_for(
                lambda: "lost" not in json.dumps(b.status()["objects"].get("redis", "")),
                what="redis to be back in use",
            )
    finally:
        server.kill()
