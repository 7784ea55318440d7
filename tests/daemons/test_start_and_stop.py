"""A node starts, says so, stops in order, and refuses what would hurt."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess

import pytest
from tests.daemons.node import identity, program

pytestmark = pytest.mark.daemon


@pytest.fixture
def notify_socket(cluster):
    path = cluster.root / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        path.chmod(0o666)
        receiver.settimeout(60)
        yield receiver


def test_a_node_says_when_it_is_ready_and_when_it_stops(cluster, notify_socket):
    node = cluster.start("a", env={"NOTIFY_SOCKET": str(cluster.root / "notify")})
    ready = notify_socket.recv(4096).decode().splitlines()
    assert "READY=1" in ready
    assert any(line.startswith("STATUS=") and node.address in line for line in ready)
    node.stop()
    said = []
    while "STOPPING=1" not in said:
        said += notify_socket.recv(4096).decode().splitlines()
    assert "READY=1" not in said
    assert node.last_log.splitlines()[-1].endswith("stopped")
    assert not (node.runtime / "api.sock").exists()
    assert not (node.runtime / "data.sock").exists()


def test_sockets_given_by_systemd_are_served_and_outlive_the_daemon(cluster):
    folder = cluster.root / "given"
    folder.mkdir(mode=0o755)
    listeners = []
    for name, kind in (("api.sock", socket.SOCK_STREAM), ("data.sock", socket.SOCK_SEQPACKET)):
        listener = socket.socket(socket.AF_UNIX, kind)
        listener.bind(str(folder / name))
        (folder / name).chmod(0o666)
        listener.listen(16)
        listeners.append(listener)
    node = cluster.start("a", wait=False)  # made first, so that its directories exist
    node.kill()
    node.runtime = folder

    def start():
        # numbers that nobody uses, above those that the daemon is to find them at
        high = [fcntl.fcntl(listener, fcntl.F_DUPFD, 200) for listener in listeners]
        script = f'exec 3<&{high[0]} 4<&{high[1]} {high[0]}<&- {high[1]}<&-; export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=api.sock:data.sock; exec "$@"'
        command = node.command()
        node.command = lambda: ["bash", "-c", script, "bash", *command]
        node.launch(pass_fds=high)
        node.command = lambda: command
        for fd in high:
            os.close(fd)

    start()
    node.wait_ready()
    source = cluster.tree("src", {"x": "data"})
    node.cli("create", "nr", source)
    assert node.cli("cat", "nr/x").stdout == "data"
    assert not (node.directory / "run" / "api.sock").exists()
    node.stop()
    assert (folder / "api.sock").exists()
    waiting = node.spawn("cat", "nr/x")  # connects while no daemon runs: the backlog holds it
    start()
    assert waiting.communicate(timeout=120)[0] == "data"
    node.stop()
    for listener in listeners:
        listener.close()


def test_a_second_daemon_on_one_state_directory_is_refused_and_the_first_goes_on(cluster):
    node = cluster.start("a")
    second = subprocess.run(
        node.command(), check=False, capture_output=True, text=True, env=cluster.environment(), timeout=180
    )
    assert second.returncode == 5
    assert f"another daemon runs on {node.state}" in second.stderr
    assert "Traceback" not in second.stderr
    assert node.cli("list").items() == []
    other = cluster.start("b", wait=False, node_runtime_dir=str(node.runtime))  # other state, same sockets
    assert other.wait_exit() == 2
    assert "another daemon listens on" in other.log
    same_store = cluster.start("c", wait=False, store_disk=str(node.disk))
    assert same_store.wait_exit() == 5
    assert "another daemon uses the store" in same_store.log
    assert node.cli("list").items() == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"store_capacity": "much"}, "store.capacity"),
        ({"store_capactiy": "1GB"}, "store.capacity"),
        ({"node_state_dir": "/proc/nowhere"}, "/proc/nowhere"),
        ({"cluster_key_file": "/nonexistent/key"}, "/nonexistent/key"),
        ({"node_listen": "203.0.113.7:7400"}, "peers on 203.0.113.7:7400"),
        ({"node_bittorrent": "203.0.113.7:7401"}, "listen on 203.0.113.7:7401"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(cluster, settings, said):
    node = cluster.start("a", wait=False, **settings)
    assert node.wait_exit() in (1, 2)
    assert said in node.log
    assert "Traceback" not in node.log


@pytest.mark.root
def test_with_no_configuration_at_all_a_user_s_node_starts_alone(cluster):
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    user = 64_123  # nobody's, without a name or a home directory
    home = cluster.root / "home"
    home.mkdir()
    os.chown(home, user, user)
    command, variables = program(user)
    env = {"HOME": str(home), "PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(home), **variables}
    flags = [
        word
        for setting in ("node.listen=127.0.0.1:0", "node.bittorrent=127.0.0.1:0")
        for word in ("--set", setting)
    ]
    with (cluster.root / "alone.log").open("wb") as log:
        alone = subprocess.Popen(
            [*command, "daemon", *flags], env=env, cwd=home, stdout=log, stderr=log, **identity(user)
        )
    cluster.children.append(alone)

    def cli(*args):
        return subprocess.run(
            [*command, *args],
            check=False,
            capture_output=True,
            text=True,
            env=env,
            cwd=home,
            timeout=180,
            **identity(user),
        )

    cluster.wait_for(
        lambda: alone.poll() is not None or cli("status").returncode == 0, what="the lonely node"
    )
    assert alone.poll() is None, (cluster.root / "alone.log").read_text()
    source = cluster.tree("src", {"x": "data"})
    made = cli("create", "nr", str(source), "--json")
    assert made.returncode == 0, made.stderr
    assert cli("exec", "nr", "--", "cat", "{nr}/x").stdout == "data"
    assert (home / ".local/state/cached/catalog.db").exists()
    assert (home / ".local/state/cached").stat().st_mode & 0o077 == 0
    alone.terminate()
    assert alone.wait(120) == 0
    assert "Traceback" not in (cluster.root / "alone.log").read_text()


def test_an_orderly_stop_and_a_start_lose_nothing(cluster):
    node = cluster.start("a")
    source = cluster.tree("src", {"x": "data"})
    made = node.cli("create", "nr", source, "--lease", "2d", "--share", "public").json()
    node.restart()
    again = node.show("nr")
    assert {**again, "lease": None, "replicas": None} == {**made, "lease": None, "replicas": None}
    assert 0 < again["lease"]["seconds_left"] <= made["lease"]["seconds_left"]
    assert node.cli("cat", "nr/x").stdout == "data"
