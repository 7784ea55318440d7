"""A user's access token goes to Cloud Storage and nowhere else: no log, no file, no other node, no answer shows it."""

import contextlib
import os
import resource
from pathlib import Path

import pytest
from tests.gcs.remote import fake_process
from tests.objects.redis_kit import needs_redis

pytestmark = [pytest.mark.daemon, needs_redis]
#: Long enough to stand nowhere by accident; Cloud Storage refuses the second.
TOKENS = {"ada": "ya29.token-of-ada-7f3a9c", "bad": "ya29.token-refused-51d0e2"}
#: Makes a daemon log all that any library has to say.
LOUD = """
import functools, logging
logging.basicConfig = functools.partial(logging.basicConfig, force=True)
plain = logging.basicConfig
def basic(**how):
    plain(**how | {"level": logging.DEBUG})
logging.basicConfig = basic
"""


@pytest.fixture
def storage():
    with fake_process() as fake:
        fake.bucket("lab")
        fake.tokens[TOKENS["ada"]] = "ada"
        fake.allow("lab", "ada", read=True, write=True)
        yield fake


def files(*folders):
    """Return what lies in all files below, by path."""
    found = {}
    for folder in folders:
        for path in Path(folder).rglob("*"):
            if path.is_file():
                with contextlib.suppress(FileNotFoundError):
                    found[str(path)] = path.read_bytes()
    return found


def test_tokens_are_in_no_log_file_answer_or_server_besides_cloud_storage(cluster, storage, server):
    settings = {
        "origin_endpoint": storage.url,
        "objects_redis": server.url,
        "objects_freshness": "10s",
    }
    hooks = cluster.tree("hooks", {"sitecustomize.py": LOUD})
    nodes = a, b = [
        cluster.start(name, env={"PYTHONPATH": str(hooks), "PYTHONASYNCIODEBUG": "1"}, **settings)
        for name in "ab"
    ]
    a.may_log = b.may_log = "Traceback"  # of connections that end: asyncio traces them when it is to be loud
    cluster.together()
    ada, bad = ({"CACHED_GCS_TOKEN": TOKENS[who]} for who in ("ada", "bad"))
    file = cluster.tree("out", {"f": "bytes"}) / "f"
    told = []

    def do(node, *args, env=ada):
        done = node.cli(*args, env=env, check=False)
        told.append(f"{done.stdout}{done.stderr}".encode())
        return done.returncode

    assert do(a, "put", file, "gs://lab/o", "--scope", "run7") == 0
    assert do(b, "cat", "gs://lab/o") == 0
    large = cluster.tree("out", {"large": os.urandom(9_000_000)}) / "large"
    assert do(b, "put", large, "gs://lab/large") == 0
    assert do(a, "get", "gs://lab/large", cluster.root / "copy") == 0
    storage.put("lab", "new", b"written by others")
    assert do(a, "cat", "gs://lab/new") == 0
    assert do(b, "cat", "gs://lab/new") == 0
    for args in (
        ("cat", "gs://lab/o"),
        ("put", file, "gs://lab/o"),
        ("scope", "end", "run7", "--delete-origin"),
    ):
        do(a, *args, env=bad)
    assert do(a, "cat", "gs://lab/o", env=bad) != 0
    storage.faults.add("503", {"kind": "stat"})
    storage.faults.add("reset", {"kind": "media"})
    storage.put("lab", "new", b"and once more")
    assert do(b, "cat", "gs://lab/new") == 0
    told += [
        a.http("GET", "/v1/objects/lab/o", headers={"Authorization": header}).body
        for header in (f"Basic {TOKENS['bad']}", f"Bearer {TOKENS['bad']}\x7f", TOKENS["bad"])
    ]
    for node in nodes:
        told += [node.http("GET", path).body for path in ("/v1/status", "/v1/metrics", "/v1/copies")]
        told += [node.cli("usage", "--json").stdout.encode()]
        for what in ("environ", "cmdline"):
            told.append(Path(f"/proc/{node.pid}/{what}").read_bytes())
    with server.raw() as raw:
        told += [part for name in raw.scan_iter() for part in (name, raw.get(name))]
        raw.save()
    assert " DEBUG " in a.log
    held = files(cluster.root, *(node.memory for node in nodes))
    assert any("catalog.db" in path for path in held)
    assert any(path.endswith("dump.rdb") for path in held)
    assert any(path.startswith(str(cluster.root / "logs")) for path in held)
    for token in TOKENS.values():
        assert [path for path, data in held.items() if token.encode() in data] == []
        assert [text for text in told if token.encode() in text] == []


def test_the_kernel_is_to_write_no_core_of_a_daemon_neither_to_a_file_nor_to_a_program(cluster):
    (line,) = [
        line
        for line in Path(f"/proc/{cluster.start('a').pid}/limits").read_text().splitlines()
        if line.startswith("Max core file size")
    ]
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    assert line.split()[4:6] == (["0", "0"] if hard == 0 else ["1", "1"])
