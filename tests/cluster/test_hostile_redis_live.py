"""A Redis that somebody else changes, and that is killed under way: no wrong byte, no old one, no open that fails."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from tests.cluster.kit import client_of
from tests.gcs.remote import fake_process
from tests.objects.redis_kit import needs_redis

pytestmark = [pytest.mark.daemon, needs_redis]


@pytest.fixture
def storage():
    with fake_process() as fake:
        fake.bucket("data")
        yield fake


def start(cluster, storage, server, names):
    settings = {"origin_endpoint": storage.url, "objects_redis": server.url}
    nodes = [cluster.start(name, **settings) for name in names]
    cluster.together()
    return nodes


def text(name, version):
    return f"{name}:{version};".encode() * 400


def read(node, *names):
    with client_of(node) as client:
        return [client.read_object(f"gs://data/{name}") for name in names]


def values(raw):
    return {name: raw.get(name) for name in raw.scan_iter()}


def shared(cluster, raw, count):
    cluster.wait_for(lambda: len(raw.keys()) == count, what=f"{count} objects in redis")
    return values(raw)


def swap(raw, found, old):
    names = sorted(found)
    raw.mset(dict(zip(names, (found[name] for name in names[1:] + names[:1]), strict=True)))


def cut(raw, found, old):
    for number, (name, value) in enumerate(found.items()):
        raw.set(name, value[: (0, 1, 13, 28, len(value) - 1, len(value) // 2)[number % 6]])


def replay(raw, found, old):
    raw.mset(dict(zip(sorted(found), old.values(), strict=True)))


def write_by_hand(raw, found, old):
    for number, name in enumerate(found):
        raw.delete(name)
        match number % 5:
            case 0:
                raw.set(name, os.urandom(3 << 20))
            case 1:
                raw.rpush(name, "a", "list")
            case 2:
                raw.hset(name, "a", "hash")
            case 3:
                raw.set(name, text("o0", 2))  # plain, and even right
            case _:
                raw.set(name, b"\x01" + bytes(28))


@pytest.mark.parametrize("harm", [swap, cut, replay, write_by_hand])
def test_what_somebody_does_to_the_values_in_redis_costs_hits_and_no_bytes(cluster, storage, server, harm):
    (a,) = start(cluster, storage, server, "a")
    names = [f"o{number}" for number in range(6)]
    old, right = {}, [text(name, 2) for name in names]
    with server.raw() as raw:
        for version in (1, 2):
            for name in names:
                storage.put("data", name, text(name, version))
            assert read(a, *names) == [text(name, version) for name in names]
            found = shared(cluster, raw, version * len(names))
            found = {name: value for name, value in found.items() if name not in old}
            old = old or found
        a.stop()  # so that nobody but redis has them
        harm(raw, found, old)
    (b,) = start(cluster, storage, server, "b")
    before = storage.bytes_out
    assert read(b, *names) == right
    assert storage.bytes_out - before == sum(map(len, right))
    assert b.status()["objects"]["hits"]["redis"]["reads"] == 0
    assert b.status()["objects"]["redis"]["state"] == "on"


class Traffic:
    """Objects written on one node and read on others, while something happens to redis."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.least = dict.fromkeys((f"o{number}" for number in range(4)), 0)
        self.wrong, self.reads = [], 0

    def write(self, node):
        version = 0
        with client_of(node) as client:
            while not self.over.is_set():
                version += 1
                for name in self.least:
                    with client.open(f"gs://data/{name}", "wb") as file:
                        file.write(text(name, version))
                    self.least[name] = version

    def read(self, node):
        with client_of(node) as client:
            while not self.over.is_set():
                for name in self.least:
                    if least := self.least[name]:
                        with client.open(f"gs://data/{name}") as file:
                            data = file.read()
                        version = int(data.split(b";")[0].split(b":")[1])
                        if version < least or data != text(name, version):
                            self.wrong.append((name, least, version))
                        self.reads += 1

    def change(self, server):
        """Swap all that lies there, again and again."""
        while not self.over.is_set():
            try:
                with server.raw() as raw:
                    if found := values(raw):
                        swap(raw, {name: value or b"" for name, value in found.items()}, {})
            except redis.RedisError:  # it is killed now and then
                self.over.wait(0.02)


def test_redis_killed_in_mid_traffic_fails_no_open_and_is_used_again_when_it_is_back(
    cluster, storage, server
):
    a, b, c = start(cluster, storage, server, "abc")
    traffic = Traffic()
    with ThreadPoolExecutor(6) as pool:
        work = [pool.submit(traffic.write, a), pool.submit(traffic.change, server)]
        work += [pool.submit(traffic.read, node) for node in (a, b, c, b)]
        try:
            for _ in range(2):
                seen = traffic.reads
                cluster.wait_for(lambda seen=seen: traffic.reads > seen + 60 or any(w.done() for w in work))
                server.kill()
                seen = traffic.reads
                cluster.wait_for(lambda seen=seen: traffic.reads > seen + 60 or any(w.done() for w in work))
                server.start()
        finally:
            traffic.over.set()
        for each in work:
            each.result()
    assert traffic.wrong == []
    cluster.wait_for(
        lambda: "lost" not in json.dumps([node.status()["objects"]["redis"] for node in (b, c)]),
        what="redis to be in use again",
    )
    names = [
        f"after{number}" for number in range(8)
    ]  # some have their home on c, which needs no redis for them
    with server.raw() as raw:
        raw.flushall()
        for name in names:
            storage.put("data", name, b"it is back")
        assert read(b, *names) == [b"it is back"] * 8
        shared(cluster, raw, 8)
        b.stop()
        assert read(c, *names) == [b"it is back"] * 8
    assert c.status()["objects"]["hits"]["redis"]["reads"] >= 1
