"""How a set is read: by programs under `exec`, by `get` and `cat`, over HTTP, and over `data.sock` as the contract writes it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from typing import Self

import pytest

pytestmark = pytest.mark.daemon

FILES = {
    "nr.00.psq": b"0123456789" * 1000,
    "sub/b": b"second\n",
    "tool": b"#!/bin/sh\necho tool $1\n",
    "empty": b"",
}


@pytest.fixture(scope="module")
def nr(node):
    source = node.cluster.tree("nr", FILES)
    (source / "tool").chmod(0o755)
    (source / "link").symlink_to("sub/b")
    node.cli("create", "nr", source)
    return node.show("nr")


class Wire:
    """A plain socket that speaks to `data.sock`, with nothing of ours in between."""

    def __init__(self, node) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(60)
        self.socket.connect(str(node.runtime / "data.sock"))

    def ask(self, **request):
        self.socket.send(json.dumps({"v": 1, **request}).encode())
        while True:
            data, descriptors, flags, _ = socket.recv_fds(self.socket, 200_000, 16)
            assert not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
            reply = json.loads(data)
            if "progress" not in reply:
                return reply, descriptors

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.socket.close()


def test_exec_gives_paths_arguments_links_and_the_exit_code(node, nr):
    script = 'cat "$CACHED_NR/sub/b"; cat ./nr/link; cat "$1"; "$2" said; exit 42'
    ended = node.cli("exec", "nr", "--", "sh", "-c", script, "{{nr}}", "{nr}/sub/b", "{nr}/tool", check=False)
    assert ended.returncode == 42
    assert ended.stdout == "second\nsecond\nsecond\ntool said\n"
    assert not os.path.lexists(node.cluster.work / "nr")
    ended = node.cli("exec", "nr=db", "--", "sh", "-c", "ls db; echo $CACHED_NR", check=False)
    assert ended.stdout.splitlines()[:-1] == sorted([*(name.partition("/")[0] for name in FILES), "link"])
    assert node.cli("exec", "nr", "--", "sh", "-c", "kill -9 $$", check=False).returncode == 137
    assert node.cli("exec", "nr", "--", "/nowhere/program", check=False).returncode == 127
    assert node.cli("exec", "nothing", "--", "true", check=False).returncode == 125
    assert node.cli("exec", "nothing", "--no-fetch", "--", "true", check=False).returncode == 3


def test_exec_serves_programs_that_spawn_others_and_close_descriptors(node, nr):
    program = """
import multiprocessing, os, subprocess, sys

def main():
    path = os.environ["CACHED_NR"]
    inner = "import os, sys; os.closerange(3, 256); sys.stdout.write(open(sys.argv[1] + '/sub/b').read())"
    subprocess.run([sys.executable, "-c", inner, path], close_fds=True, check=True)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        print(sum(pool.map(os.path.getsize, [path + "/nr.00.psq"] * 4)))
    shell = "cd nr/sub && cat b && cd .. && ls tool"
    print(subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout)

if __name__ == "__main__":
    main()
"""
    script = node.cluster.root / "spawns.py"
    script.write_text(program)
    ended = node.cli("exec", "nr", "--", sys.executable, script)
    assert ended.stdout.split() == ["second", "40000", "second", "tool"]


def test_exec_view_is_a_real_tree(node, nr):
    program = (
        "import os; p = os.path.realpath(os.environ['CACHED_NR']); print(p); print(open(p + '/sub/b').read())"
    )
    path, said = node.cli("exec", "nr", "--view", "--", sys.executable, "-c", program).stdout.split()
    assert said == "second"
    assert not path.startswith("/proc")
    assert not os.path.exists(path)


def test_get_and_cat_and_files_and_path(node, nr, tmp_path):
    node.cli("get", "nr/sub", tmp_path / "sub")
    assert (tmp_path / "sub/b").read_bytes() == b"second\n"
    node.cli("get", "nr/tool", tmp_path / "tool")
    assert (
        subprocess.run([tmp_path / "tool", "x"], check=True, capture_output=True, text=True).stdout
        == "tool x\n"
    )
    assert node.cli("get", "nr", tmp_path / "sub", check=False).returncode == 2  # not empty
    assert (
        node.cli("cat", "nr/nr.00.psq", "nr/sub/b", "nr/empty", "nr/link", text=False).stdout
        == FILES["nr.00.psq"] + b"second\n" * 2
    )
    for path in ("nr/none", "nr/sub/../none", "nothing/x"):
        assert node.cli("cat", path, check=False).returncode in (2, 3)
    assert node.cli("cat", "nr/../../etc/passwd", check=False).returncode in (2, 3)
    listed = {item["path"]: item for item in node.cli("files", "nr").items()}
    assert listed["nr.00.psq"]["size"] == 10_000
    assert len(listed["nr.00.psq"]["root"]) == 64


def test_http_serves_whole_files_and_ranges(node, nr):
    url = "/v1/sets/nr/content/nr.00.psq"
    data = FILES["nr.00.psq"]
    whole = node.http("GET", url)
    assert (whole.status, whole.body) == (200, data)
    tag = whole.headers["ETag"]
    for asked, expected in {
        "bytes=0-0": (0, 1), "bytes=10-19": (10, 20), "bytes=9990-": (9990, 10_000), "bytes=-7": (9993, 10_000), "bytes=9999-99999": (9999, 10_000),
    }.items():  # fmt: skip
        part = node.http("GET", url, headers={"Range": asked})
        first, end = expected
        assert (part.status, part.body) == (206, data[first:end])
        assert part.headers["Content-Range"] == f"bytes {first}-{end - 1}/10000"
    beyond = node.http("GET", url, headers={"Range": "bytes=10000-"})
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, "bytes */10000")
    assert node.http("GET", url, headers={"If-None-Match": tag}).status == 304
    head = node.http("HEAD", url)
    assert (head.status, head.headers["Content-Length"], head.body) == (200, "10000", b"")
    assert node.http("GET", "/v1/sets/nr/content/empty").body == b""
    for path, status in {
        "none": 404,
        "sub": 400,
        "%2e%2e/manifest": 400,
        "..%2fmanifest": 400,
        "sub%00": 400,
    }.items():
        answer = node.http("GET", f"/v1/sets/nr/content/{path}")
        assert answer.status == status, (path, answer.body)
        assert answer.json()["error"]["code"]
    assert node.http("GET", "/nowhere").json()["error"]["code"] == "not_found"
    assert re.search(rb"^# TYPE cached", node.http("GET", "/v1/metrics").body, re.MULTILINE)


def test_data_sock_speaks_as_the_contract_says(node, nr):
    with Wire(node) as wire:
        reply, (file,) = wire.ask(op="open", name="nr", path="nr.00.psq")
        assert (reply["kind"], reply["size"], reply["set"]["id"]) == ("file", 10_000, nr["id"])
        assert os.pread(file, 20, 5) == FILES["nr.00.psq"][5:25]
        with pytest.raises(PermissionError):
            os.close(os.open(f"/proc/self/fd/{file}", os.O_RDWR)) if os.geteuid() else _refuse()
        reply, (folder,) = wire.ask(op="open", name="nr")
        assert reply["kind"] == "dir"
        assert sorted(os.listdir(folder)) == sorted([*(name.partition("/")[0] for name in FILES), "link"])
        assert os.fstat(folder).st_mode & 0o777 == 0o555
        for request, code in (
            ({"op": "open", "name": "nothing"}, "not_found"),
            ({"op": "open", "name": "nr", "path": "none"}, "not_found"),
            ({"op": "open", "name": "nr", "path": "../manifest"}, "bad_name"),
            ({"op": "open", "name": "-"}, "bad_name"),
            ({"op": "dance"}, "usage"),
        ):
            reply, descriptors = wire.ask(**request)
            assert (reply["error"]["code"], descriptors) == (code, []), request
        wire.socket.send(b"{")
        assert json.loads(wire.socket.recv(100_000))["error"]["code"] == "usage"
        assert wire.ask(op="open", name=f"id:{nr['id'][:8]}", path="sub/b")[0]["size"] == 7
        before = node.status()["open"]
        assert before >= 1
    node.cluster.wait_for(
        lambda: node.status()["open"] < before, what="the pins of a closed connection to go"
    )
    os.close(file)
    os.close(folder)


def _refuse():
    raise PermissionError("root may do everything")


def test_hostile_packets_hurt_nobody_else(node, nr):
    with Wire(node) as good, Wire(node) as bad:
        for packet in (
            b"\0" * 100,
            b"[" * 100_000,
            b'{"op":"open","name":' + b"1" * 1000 + b"}",
            b'{"op":"add"}',
            b'{"op":"seal"}',
            b"\xff\xfe",
        ):
            bad.socket.send(packet)
        read, write = os.pipe()
        for _ in range(20):
            socket.send_fds(bad.socket, [b'{"v":1,"op":"open","name":"nr"}'], [read] * 10)
        os.close(read)
        assert good.ask(op="open", name="nr", path="sub/b")[0]["size"] == 7
        bad.socket.close()
        node.cluster.wait_for(
            lambda: _broken(write), what="the daemon to let go of the pipe that it was given"
        )
        os.close(write)
        assert good.ask(op="open", name="nr", path="sub/b")[0]["size"] == 7


def _broken(write):
    try:
        os.write(write, b"x")
    except BrokenPipeError:
        return True
    return False


@pytest.mark.parametrize("how", ["delete", "expire"])
def test_a_set_that_goes_during_a_run_stays_readable_to_it_also_across_kill_9(cluster, how):
    node = cluster.start("a", store_capacity="40MB")
    source = cluster.tree("src", {"x": os.urandom(20_000_000), "later": b"later"})
    made = node.cli("create", "going", source, "--lease", "1s" if how == "expire" else "1d").json()
    script = (
        "cat going/later; read go; cat going/later; read go; cat {going}/later; head -c 3 {going}/x | wc -c"
    )
    job = node.spawn("exec", "going", "--", "sh", "-ec", script)
    assert job.stdout.read(5) == "later"
    if how == "delete":
        node.cli("delete", "going", "--everywhere")
        assert node.cli("cat", "going/later", check=False).returncode == 3
    else:
        cluster.wait_for(lambda: node.show("going")["lease"]["seconds_left"] == 0, what="the lease to end")
    wanted = cluster.tree("wanted", {"y": os.urandom(25_000_000)})
    full = node.cli("create", "wanted", wanted, check=False)
    assert (full.returncode, full.error["code"]) == (5, "no_space")
    node.kill()
    job.stdin.write("go\n")
    job.stdin.flush()
    assert job.stdout.read(5) == "later"  # while no daemon runs
    node.restart()
    full = node.cli("create", "wanted", wanted, check=False)
    assert (full.returncode, full.error["code"]) == (5, "no_space")
    assert job.communicate("go\n", timeout=120)[0] == "later3\n"
    cluster.wait_for(
        lambda: node.cli("create", "wanted", wanted, check=False).returncode == 0, what="the space to return"
    )
    assert not (node.disk / "contents" / made["content"]).exists()


def test_an_expired_set_is_readable_revived_by_extend_and_goes_only_when_space_is_wanted(cluster):
    node = cluster.start("a", store_capacity="60MB")
    first, second, third = (
        cluster.tree(name, {"x": os.urandom(20_000_000)}) for name in ("one", "two", "three")
    )
    node.cli("create", "first", first, "--lease", "1s")
    node.cli("create", "second", second, "--lease", "1s")
    cluster.wait_for(
        lambda: all(node.show(name)["lease"]["seconds_left"] == 0 for name in ("first", "second")),
        what="leases to end",
    )
    assert [replica["state"] for replica in node.show("first")["replicas"]] == ["EXPIRED"]
    assert len(node.cli("cat", "second/x", text=False).stdout) == 20_000_000
    node.cli("extend", "first", "1d")
    assert node.show("first")["lease"]["seconds_left"] > 86_000
    node.cli("create", "third", third)  # takes the place of the one that nobody has extended
    assert node.show("first")["replicas"][0]["state"] == "COMMITTED"
    assert not node.show("second").get("replicas")
    assert len(node.cli("cat", "first/x", text=False).stdout) == 20_000_000
    refused = node.cli("create", "fourth", second, check=False)
    assert (refused.returncode, refused.error["code"]) == (5, "no_space")


def test_leases_are_shortened_to_the_node_s_limit_and_never_by_extending(cluster):
    node = cluster.start("a", policy_max_lease="2d", policy_default_lease="3h")
    source = cluster.tree("src", {"x": "x"})
    assert 3 * 3600 - 60 < node.cli("create", "usual", source).json()["lease"]["seconds_left"] <= 3 * 3600
    made = node.cli("create", "long", source, "--lease", "9d")
    assert made.json()["lease"]["seconds_left"] <= 2 * 86_400
    assert "shorter than asked" in made.stderr
    kept = node.cli("extend", "long", "1h").json()["grants"][0]
    assert kept["seconds"] > 86_400
    grant = node.cli("extend", "usual", "9d").json()["grants"][0]
    assert grant["granted"]
    assert grant["shortened"]
    assert grant["reason"]
    assert node.cli("extend", "nothing", "1d", check=False).returncode == 3
