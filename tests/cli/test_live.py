"""The program itself, against real sockets: bytes, processes, signals and codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.cli.conftest import SET_ID, set_view
from tests.cli.fake_node import FakeNode, serving

from cached_cli.keeper import Keeper

CACHED = [sys.executable, "-c", "from cached_cli.main import main; main()"]


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A node with one set of two files, and the environment that leads to it."""
    runtime, work = tmp_path / "run", tmp_path / "work"
    runtime.mkdir()
    work.mkdir()
    monkeypatch.setenv("CACHED_RUNTIME_DIR", str(runtime))
    monkeypatch.chdir(work)
    node = FakeNode(tmp_path / "store")
    root = node.home / SET_ID
    (root / "sub").mkdir(parents=True)
    (root / "a").write_text("first\n")
    (root / "sub" / "b").write_text("second\n")
    node.sets["nr"] = set_view()
    with serving(node, runtime):
        yield node


def call(*arguments, **settings):
    settings = {"capture_output": True, "text": True, "timeout": 180, **settings}
    return subprocess.run([*CACHED, *map(str, arguments)], check=False, **settings)


def wait_until(condition):
    while not condition():
        threading.Event().wait(0.02)


def test_what_is_created_can_be_listed_read_and_copied(node, tmp_path):
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "file").write_bytes(os.urandom(3 << 20))
    made = call("create", "new", source)
    assert made.returncode == 0, made.stderr
    assert made.stdout == node.sets["new"].id + "\n"
    assert {entry["name"] for entry in json.loads(call("list", "--json").stdout)["items"]} == {"nr", "new"}
    assert "deep/file" in call("files", "new").stdout
    got = call("get", "new", tmp_path / "copy", "--json")
    assert json.loads(got.stdout) == {"path": str(tmp_path / "copy")}
    assert (tmp_path / "copy/deep/file").read_bytes() == (source / "deep/file").read_bytes()
    assert call("cat", "new/deep/file", text=False).stdout == (source / "deep/file").read_bytes()
    assert call("get", "new", tmp_path).returncode == 2


def test_cat_joins_files_also_where_the_output_is_appended_to(node, tmp_path):
    with (tmp_path / "out").open("ab") as out:
        assert call("cat", "nr/a", "nr/sub/b", capture_output=False, stdout=out).returncode == 0
    assert (tmp_path / "out").read_text() == "first\nsecond\n"
    missing = call("cat", "nr/a", "nr/none", "--json")
    assert (missing.returncode, missing.stdout) == (3, "first\n")
    assert json.loads(missing.stderr)["error"]["code"] == "not_found"


def test_a_reader_that_goes_away_ends_cat_and_list_quietly(node):
    (node.home / SET_ID / "big").write_bytes(bytes(8 << 20))
    for command in ("cat nr/big", "files nr"):
        reader, writer = os.pipe()
        os.close(reader)
        ended = call(*command.split(), capture_output=False, stdout=writer, stderr=subprocess.PIPE)
        os.close(writer)
        assert (ended.returncode, ended.stderr) == (141, "")


INTERRUPTED = """
import os, signal, sys
last = sys.argv[1]
class Interrupt:
    def find_spec(self, name, *_):
        if name == last:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupt())
from cached_cli.start import main
sys.argv[1:] = ["list"]
main()
"""


@pytest.mark.parametrize(
    "module", ["cached_cli.main", "click", "cached.errors", "cached_cli.listing", "cached.client"]
)
def test_an_interrupt_while_the_program_still_loads_is_130_without_a_traceback(node, module):
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, module], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr in ("", "cached: interrupted\n")


def test_no_daemon_is_6_and_for_exec_125(node, tmp_path):
    nowhere = ["--runtime-dir", tmp_path / "nowhere"]
    assert call(*nowhere, "list").returncode == 6
    assert json.loads(call("list", *nowhere, "--json").stderr)["error"]["code"] == "daemon_unreachable"
    assert call(*nowhere, "exec", "nr", "--", "true").returncode == 125
    assert call("--instance", "none", "list").returncode == 6


PROGRAM = """
import os, subprocess, sys
path = os.environ["CACHED_NR"]
assert sys.argv[1:] == [path + "/a", "{other}", "--json"], sys.argv
command = "import os; print(open(os.environ['CACHED_NR'] + '/sub/b').read(), end='', flush=True)"
subprocess.run([sys.executable, "-c", command], close_fds=True)
print(open("./nr/a").read(), end="")
number = path.rsplit("/", 1)[1]
print(os.listdir(f"/proc/self/fd/{number}") and "inherited")
sys.exit(42)
"""

#: The last line of `exec`; nothing else is said.
SUMMARY = "in 2 files 3.0 MiB (here 100 %), out 0 files 0 B, hit rate 100 %\n"


def test_exec_gives_variables_arguments_a_link_and_the_code(node):
    ended = call("exec", "nr", "--", sys.executable, "-c", PROGRAM, "{nr}/a", "{other}", "--json")
    assert ended.stderr == SUMMARY
    assert ended.returncode == 42
    assert ended.stdout == "second\nfirst\ninherited\n"
    assert not os.path.lexists("nr")
    wait_until(lambda: node.pins.total() == 0)


def test_exec_by_id_goes_by_the_name_of_the_set(node):
    show = ["sh", "-c", 'test "$CACHED_NR" = "$0" && test "$1" = "$0" && cat "$2/a"']
    for given, link in ((f"id:{SET_ID[:8]}", "nr"), (f"id:{SET_ID[:8]}=db", "db")):
        ended = call("exec", given, "--", *show, "{nr}", f"{{id:{SET_ID[:8]}}}", link)
        assert (ended.stderr, ended.stdout, ended.returncode) == (SUMMARY, "first\n", 0)
    assert call("exec", "id:ffffffff", "--", "true").returncode == 125
    assert call("exec", "--no-fetch", "id:ffffffff", "--", "true").returncode == 3
    assert call("exec", "nr", f"id:{SET_ID[:8]}", "--", "true").returncode == 125


def test_exec_pins_the_set_while_the_command_runs(node):
    command = [*CACHED, "exec", "nr=db", "--", "sh", "-c", "cat db/a; read go; cat db/sub/b"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "first\n"
        assert node.pins[SET_ID] == 1
        assert os.readlink("db") == f"/proc/{running.pid}/fd/{os.readlink('db').rpartition('/')[2]}"
        assert running.communicate("go\n")[0] == "second\n"
        assert running.returncode == 0
    wait_until(lambda: node.pins[SET_ID] == 0)


def test_exec_s_own_failures_are_125_127_and_126(node):
    cases = {
        ("exec", "none", "--", "true"): 125,
        ("exec", "nr"): 125,
        ("exec", "--", "true"): 125,
        ("exec", "nr", "--"): 125,
        ("exec", "nr", "--bad", "--", "true"): 125,
        ("exec", "nr=a/b", "--", "true"): 125,
        ("exec", "nr", "--", "no-such-command-here"): 127,
        ("exec", "nr", "--", "/"): 126,
        ("exec", "nr", "--", "sh", "-c", "kill -KILL $$"): 137,
    }
    for arguments, code in cases.items():
        assert call(*arguments).returncode == code, arguments
    failed = call("exec", "--json", "none", "--", "true")
    assert json.loads(failed.stderr)["error"]["code"] == "not_found"


def test_exec_fetches_a_set_first_unless_told_not_to(node):
    node.absent.add("nr")
    refused = call("exec", "--no-fetch", "nr", "--", "true")
    assert refused.returncode == 3
    assert node.fetched == []
    assert call("exec", "nr", "--", "cat", "{nr}/a").stdout == "first\n"
    assert node.fetched == ["nr"]


def test_exec_leaves_a_foreign_file_alone_and_goes_on(node):
    Path("nr").write_text("mine")
    ended = call("exec", "nr", "--", "cat", "{nr}/a")
    assert (ended.returncode, ended.stdout) == (0, "first\n")
    assert "no link nr" in ended.stderr
    assert Path("nr").read_text() == "mine"


def test_a_view_has_real_paths_and_is_gone_afterwards(node, tmp_path, monkeypatch):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    ended = call("exec", "--view", "nr", "--", "sh", "-c", "cat $(realpath nr/sub/b); realpath {nr}")
    assert ended.returncode == 0, ended.stderr
    content, where = ended.stdout.splitlines()
    assert content == "second"
    assert where.startswith(str(temporary))
    assert list(temporary.iterdir()) == []
    assert not os.path.lexists("nr")


@pytest.mark.parametrize("shell", ["bash", "dash", "sh"])
def test_a_path_is_valid_until_the_shell_ends(node, shell):
    python = " ".join(f"'{part}'" for part in CACHED)
    script = f'p=$({python} path nr/sub) || exit 1; (cat "$p/b"); echo "$p"; read go; cat "$p/b"'
    with subprocess.Popen(
        [shell, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "second\n"
        path = Path(job.stdout.readline().strip())
        assert path.name == "sub"
        assert node.pins[SET_ID] == 1
        assert job.communicate("go\n")[0] == "second\n"
    wait_until(lambda: node.pins[SET_ID] == 0)
    wait_until(lambda: not path.exists())


def test_a_path_that_is_not_there_is_3(node):
    assert call("path", "none").returncode == 3
    assert call("path", "nr/none").returncode == 3
    wait_until(lambda: node.pins.total() == 0)  # nobody is left who keeps it open
    assert call("path", "nr/../x").returncode == 2
    node.absent.add("nr")
    assert call("path", "--no-fetch", "nr").returncode == 3
    found = json.loads(call("path", "nr", "--json").stdout)["path"]
    assert found.startswith("/proc/")
    assert node.fetched == ["nr"]
    wait_until(lambda: node.pins.total() == 0 or Path(found).exists())


def test_ctrl_c_during_a_create_cancels_it_and_says_so(node, tmp_path):
    (tmp_path / "file").write_text("x")
    node.may_copy.clear()
    command = [*CACHED, "create", "new", str(tmp_path / "file")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        wait_until(lambda: len(list(node.home.iterdir())) > 1)
        running.send_signal(signal.SIGINT)
        assert "nothing was stored" in running.communicate(timeout=120)[1]
        assert running.returncode == 130
    assert node.aborted.wait(120)
    assert list(node.sets) == ["nr"]


def test_help_is_quick_because_it_loads_little():
    heavy = ["rich", "msgspec", "http.client", "cached.client", "cached.wire", "aiohttp", "asyncio"]
    script = f"""
import sys
from cached_cli.main import cached
try:
    cached.main(["--help"])
except SystemExit:
    print([name for name in {heavy} if name in sys.modules], file=sys.stderr)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stderr == "[]\n"
    assert "exec" in ended.stdout


class Reopening:
    """A client whose daemon is away now and then."""

    def __init__(self) -> None:
        self.open = []
        self.most = 0
        self.asked = threading.Semaphore(0)

    def open_dir(self, ref_path, *, fetch):
        assert not fetch
        self.asked.release()
        if len(self.open) == 1 and self.most < 1:
            self.most = 1
            raise OSError("away")
        opened = Handle(self.open)
        self.open.append(opened)
        return opened


class Handle:
    """Something open."""

    def __init__(self, where) -> None:
        self._where = where

    def close(self) -> None:
        self._where.remove(self)


def test_the_keeper_asks_again_and_holds_one_pin():
    client = Reopening()
    keeper = Keeper(client, ["i" * 32], every=0.001)
    keeper.start()
    for _ in range(5):
        client.asked.acquire()
    keeper.stop()
    keeper.join()
    assert len(client.open) == 1
