"""Real users of one node: what is private stays so, whatever a second user tries; what is shared is shared with those alone."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from tests.daemons.node import identity, program

pytestmark = [pytest.mark.daemon, pytest.mark.root]

#: Two users that every Debian has; each has a group of its own name.
ANN, BOB = "games", "mail"

#: Runs as the second user: tries everything, prints what each attempt gave.
INTRUDER = r"""
import array, errno, glob, http.client, json, os, socket, sys

facts = json.loads(sys.argv[1])
found = {}

def attempt(name, action):
    try:
        found[name] = repr(action())
    except OSError as error:
        found[name] = errno.errorcode[error.errno]

def read(path):
    with open(path, "rb") as file:
        return file.read()

def data_sock(name, path=""):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(facts["runtime"] + "/data.sock")
        client.send(json.dumps({"v": 1, "op": "open", "name": name, "path": path}).encode())
        while True:
            data, descriptors, _, _ = socket.recv_fds(client, 200_000, 10)
            reply = json.loads(data)
            if "progress" not in reply:
                return (reply["error"]["code"] if "error" in reply else "opened"), descriptors

def http_api(method, path, body=None):
    class Connection(http.client.HTTPConnection):
        def connect(self):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(facts["runtime"] + "/api.sock")
    connection = Connection("localhost")
    connection.request(method, path, body, {"X-Remote-User": facts["owner"], "Authorization": "Basic " + facts["owner"]})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()

# The store, by its paths.
attempt("store", lambda: os.listdir(facts["disk"]))
attempt("content", lambda: os.listdir(facts["home"]))
attempt("guessed", lambda: read(facts["home"] + "/data/secret.txt"))
attempt("manifest", lambda: read(facts["home"] + "/manifest"))
attempt("catalog", lambda: read(facts["state"] + "/catalog.db"))
attempt("key", lambda: os.listdir(facts["state"] + "/identity"))
attempt("pins", lambda: read(facts["state"] + "/pins"))
# Other processes' descriptors.
for pid in facts["pids"]:
    attempt(f"fds of {pid['who']}", lambda: os.listdir(f"/proc/{pid['pid']}/fd"))
    for number in range(3, 64):
        for inside in ("", "/secret.txt"):
            path = f"/proc/{pid['pid']}/fd/{number}{inside}"
            attempt(f"fd {pid['who']} {number}{inside}", lambda: os.open(path, os.O_RDONLY))
    attempt(f"root of {pid['who']}", lambda: os.listdir(f"/proc/{pid['pid']}/cwd"))
    attempt(f"memory of {pid['who']}", lambda: open(f"/proc/{pid['pid']}/mem", "rb").read(1))
# A descriptor that was given leads nowhere else, and writes nothing.
code, descriptors = data_sock(facts["public"])
found["public"] = code
root = descriptors[0]
attempt("up", lambda: os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=root))
attempt("manifest above", lambda: os.open("../manifest", os.O_RDONLY, dir_fd=root))
attempt("contents above", lambda: os.open("../..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=root))
attempt("neighbour", lambda: os.open(f"../../{facts['content']}/data/secret.txt", os.O_RDONLY, dir_fd=root))
attempt("climb", lambda: os.open("..", os.O_PATH, dir_fd=os.open("..", os.O_PATH, dir_fd=root)))
attempt("proc climb", lambda: os.listdir(f"/proc/self/fd/{root}/../.."))
attempt("write", lambda: os.open("open.txt", os.O_RDWR, dir_fd=root))
attempt("make", lambda: os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=root))
attempt("remove", lambda: os.unlink("open.txt", dir_fd=root))
attempt("chmod", lambda: os.fchmod(root, 0o777))
attempt("rename", lambda: os.rename("open.txt", "closed.txt", src_dir_fd=root, dst_dir_fd=root))
attempt("read", lambda: os.read(os.open("open.txt", os.O_RDONLY, dir_fd=root), 100))
_, (one,) = data_sock(facts["public"], "open.txt")
attempt("reopen for writing", lambda: os.open(f"/proc/self/fd/{one}", os.O_RDWR))
attempt("truncate", lambda: os.ftruncate(one, 0))
# Names and ids, asked for on both sockets.
names = facts["names"]
found["data.sock"] = {name: data_sock(name, path)[0] for name in names for path in ("", "secret.txt")}
found["http"] = {
    name: {f"{method} {path.replace(name, 'NAME')}": http_api(method, path, body) for method, path, body in (
        ("GET", f"/v1/sets/{name}", None),
        ("GET", f"/v1/sets/{name}/files", None),
        ("GET", f"/v1/sets/{name}/content/secret.txt", None),
        ("GET", f"/v1/match/{name}", None),
        ("GET", f"/v1/locate?name={name}", None),
        ("PATCH", f"/v1/sets/{name}", '{"share": "public"}'),
        ("POST", f"/v1/sets/{name}/extend", '{"lease_seconds": 100000}'),
        ("POST", f"/v1/sets/{name}/fetch", "{}"),
        ("POST", f"/v1/sets/{name}/replicate", "{}"),
        ("POST", f"/v1/sets/{name}/verify", "{}"),
        ("DELETE", f"/v1/sets/{name}", None),
        ("DELETE", f"/v1/sets/{name}?everywhere=1", None),
    )}
    for name in names
}
found["lists"] = {path: http_api("GET", path) for path in ("/v1/sets", "/v1/sets?local=1", "/v1/status", "/v1/usage", "/v1/nodes", "/v1/metrics")}
print(json.dumps(found))
"""


def run_as(user, script, facts):
    """Run a Python script as that user, and return the JSON that it prints."""
    python = program(user)[0][0]
    ended = subprocess.run(
        [python, "-c", script, json.dumps(facts)],
        check=False,
        capture_output=True,
        text=True,
        cwd="/",
        env={},
        timeout=180,
        **identity(user),
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.fixture(scope="module", autouse=True)
def _only_as_root():
    if os.geteuid() != 0:
        pytest.skip("needs root to become other users")


@pytest.fixture
def source(node):
    return node.cluster.tree("private", {"secret.txt": "the launch code"})


def test_a_private_set_is_out_of_a_second_user_s_reach(node, source):
    made = node.cli("create", "private", source, user=ANN).json()
    assert (made["owner"], made["share"]) == (ANN, "private")
    opened = node.cluster.tree("open", {"open.txt": "hello"})
    node.cli("create", "open", opened, "--share", "public", user=ANN)
    job = node.spawn(
        "exec",
        "private",
        "--",
        "sh",
        "-c",
        "cat {private}/secret.txt; read go; cat {private}/secret.txt",
        user=ANN,
    )
    assert job.stdout.read(15) == "the launch code"
    home = node.disk / "contents" / made["content"]
    names = [
        "private",
        f"{ANN}:private",
        "private@a",
        f"{ANN}:private@a",
        f"id:{made['id']}",
        f"id:{made['id'][:8]}",
    ]
    nothing = ["nothing", f"{ANN}:nothing", "id:ffffffffffffffff"]
    facts = {
        "owner": ANN,
        "runtime": str(node.runtime),
        "disk": str(node.disk),
        "state": str(node.state),
        "home": str(home),
        "content": made["content"],
        "public": f"{ANN}:open",
        "pids": [{"who": "daemon", "pid": node.pid}, {"who": "job", "pid": job.pid}],
        "names": [*names, *nothing],
    }
    found = run_as(BOB, INTRUDER, facts)
    assert found.pop("public") == "opened"
    assert found.pop("read") == "b'hello'"
    asked, over_http, lists = found.pop("data.sock"), found.pop("http"), found.pop("lists")
    assert set(found.values()) <= {"EACCES", "EPERM", "EINVAL", "EROFS", "ENOENT"}, found
    assert {found[key] for key in found if not key.startswith("fd ") and key != "truncate"} <= {
        "EACCES",
        "EPERM",
    }, found
    assert set(asked.values()) == {"not_found"}
    answers = [
        {ask: (status, body.replace(name, "NAME")) for ask, (status, body) in each.items()}
        for name, each in over_http.items()
    ]
    assert {status for status, _ in answers[0].values()} == {404}
    assert all(each == answers[-1] for each in answers)  # in the very words in which nothing is not found
    said = json.dumps(lists)
    for secret in ("private", "secret.txt", made["id"], made["content"]):
        assert secret not in said.replace('\\"share\\":\\"private\\"', ""), (secret, lists)
    for words in (
        ["list"], ["list", "--local"], ["show", "private"], ["files", "private"], ["cat", "private/secret.txt"], ["get", "private", "copy"],
        ["exec", "private", "--no-fetch", "--", "true"], ["path", "private"], ["extend", "private", "30d"], ["delete", "private"],
        ["delete", "private", "--everywhere"], ["update", "private", "--share", "public"], ["match", "private"], ["locate", "private"],
        ["replicate", "private"], ["verify", "private"],
    ):  # fmt: skip
        ended = node.cli(*words, user=BOB, check=False)
        assert ended.returncode == (0 if words[0] == "list" else 3), (words, ended.stderr)
        assert made["id"] not in ended.stdout
    assert node.show("private", user=ANN)["revision"] == made["revision"]
    assert (
        node.cli("create", "private", opened, user=BOB).json()["owner"] == BOB
    )  # the name is each user's own
    assert job.communicate("go\n", timeout=120)[0] == "the launch code"
    node.cli("delete", "private", "--everywhere", user=BOB)
    node.cli("delete", "private", "--everywhere", user=ANN)
    node.cli("delete", "open", "--everywhere", user=ANN)


def test_sharing_with_a_group_and_with_all_begins_and_ends_with_update(node, source):
    node.cli("create", "shared", source, user=ANN)

    def reads(user):
        return node.cli("cat", "shared/secret.txt", user=user, check=False).returncode

    assert [reads(user) for user in (ANN, BOB, "news")] == [0, 3, 3]
    node.cli("update", "shared", "--share", f"group:{BOB}", user=ANN)
    assert [reads(user) for user in (ANN, BOB, "news")] == [0, 0, 3]
    for words in (
        ["extend", "shared", "20d"],
        ["delete", "shared"],
        ["update", "shared", "--share", "public"],
    ):
        assert node.cli(*words, user=BOB, check=False).returncode == 4, words
    assert "shared" in [item["name"] for item in node.cli("list", user=BOB).items()]
    assert "shared" not in [item["name"] for item in node.cli("list", user="news").items()]
    node.cli("update", "shared", "--share", "public", user=ANN)
    assert [reads(user) for user in (ANN, BOB, "news")] == [0, 0, 0]
    node.cli("update", "shared", "--share", "private", user=ANN)
    assert [reads(user) for user in (ANN, BOB, "news")] == [0, 3, 3]
    node.cli("delete", "shared", "--everywhere", user=ANN)


def test_names_are_the_caller_s_own_first_and_then_the_shared_ones(node, source):
    theirs = node.cli("create", "both", source, "--share", "public", user=ANN).json()
    assert node.show("both", user=BOB)["id"] == theirs["id"]
    own = node.cli("create", "both", source, user=BOB).json()
    assert node.show("both", user=BOB)["id"] == own["id"]
    assert node.show(f"{ANN}:both", user=BOB)["id"] == theirs["id"]
    third = node.cli("create", "both", source, "--share", "public", user="news").json()
    ambiguous = node.cli("show", "both", user="uucp", check=False)
    assert ambiguous.returncode == 2
    assert ambiguous.error["code"] == "ambiguous_name"
    assert {each["id"] for each in ambiguous.error["details"]["candidates"]} == {theirs["id"], third["id"]}
    for user in (ANN, BOB, "news"):
        node.cli("delete", "both", "--everywhere", user=user)


def test_an_administrator_lists_and_deletes_and_reads_nothing(node, source):
    made = node.cli("create", "private", source, user=ANN).json()
    assert made["id"] in [item["id"] for item in node.cli("list").items()]
    assert node.show(f"{ANN}:private")["id"] == made["id"]
    for words in (
        ["cat", f"{ANN}:private/secret.txt"], ["files", f"{ANN}:private"], ["get", f"{ANN}:private", "copy"],
        ["update", f"{ANN}:private", "--share", "public"], ["extend", f"{ANN}:private", "30d"],
    ):  # fmt: skip
        assert node.cli(*words, check=False).returncode == 4, words
    assert node.cli("exec", f"{ANN}:private", "--", "true", check=False).returncode == 125
    assert node.http("GET", f"/v1/sets/id:{made['id']}/content/secret.txt").status == 403
    node.cli("delete", f"{ANN}:private", "--everywhere")
    assert node.show("private", user=ANN) == {}


def test_whom_the_kernel_cannot_name_is_refused(node, source):
    assert node.cli("list", user="nobody", check=False).returncode == 4
    refused = node.cli("create", "mine", source, user="nobody", check=False)
    assert (refused.returncode, refused.error["code"]) == (4, "forbidden")
    made = node.cli("create", "mine", source, user=64_123).json()
    assert made["owner"] == "uid-64123"
    assert node.show("mine", user=64_124) == {}
    node.cli("delete", "mine", "--everywhere", user=64_123)


def test_a_user_s_own_node_shares_the_uid_and_says_so(cluster):
    node = cluster.start("own", user=64_123)
    source = cluster.tree("private", {"secret.txt": "the launch code"})
    assert node.cli("nodes", user=64_123).items()[0]["attributes"]["Isolation"] == "none"
    node.cli("create", "mine", source, user=64_123)
    assert node.show("mine", user=BOB) == {}
    assert node.cli("cat", "mine/secret.txt", user=BOB, check=False).returncode == 3
    assert node.cli("exec", "mine", "--", "cat", "{mine}/secret.txt", user=64_123).stdout == "the launch code"
