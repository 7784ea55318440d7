"""What cannot become a set is refused with its own error and exit code, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from tests.daemons.conftest import standing

pytestmark = [pytest.mark.daemon, pytest.mark.usefixtures("untouched")]


@pytest.fixture
def source(node, request):
    """A directory of its own for each test."""
    folder = node.cluster.tree(request.node.name.replace("/", "_"), {"fine": "fine", "sub/fine": "fine too"})
    yield folder
    shutil.rmtree(folder)


def refused(node, *args, code: int, name: str, **how):
    """Run `cached create NAME ...`, assert how it is refused, and return the error."""
    result = node.cli("create", *args, check=False, **how)
    assert result.returncode == code, (result.stdout, result.stderr)
    assert result.stdout == ""
    assert result.error["code"] == name
    assert "Traceback" not in result.stderr
    return result.error


def test_links_that_lead_outside_are_named(node, source):
    for target in ("/etc/passwd", "../../outside", "../sub/../../outside"):
        (source / "sub" / "bad").symlink_to(target)
        error = refused(node, "bad", source, code=1, name="unsupported_file")
        assert "sub/bad" in error["message"]
        (source / "sub" / "bad").unlink()


def test_sockets_and_fifos_are_named(node, source):
    os.mkfifo(source / "sub" / "pipe")
    assert "sub/pipe" in refused(node, "bad", source, code=1, name="unsupported_file")["message"]
    (source / "sub" / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"{source}/s")
        assert "/s is a socket" in refused(node, "bad", source, code=1, name="unsupported_file")["message"]


@pytest.mark.root
def test_devices_are_named(node, source):
    try:
        os.mknod(source / "null", 0o666 | 0o020000, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("needs root to make a device")
    assert (
        "null is a character device"
        in refused(node, "bad", source, code=1, name="unsupported_file")["message"]
    )


def test_names_that_no_file_may_have_are_refused(node, source):
    for name in (b"new\nline", b"\x1b[31m", b"latin-\xe9"):
        path = os.path.join(os.fsencode(source), name)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        refused(node, "bad", source, code=2, name="bad_name")
        os.unlink(path)


def test_set_names_and_options_that_cannot_be_are_usage_errors(node, source):
    for name in ("", "-x", ".x", "a/b", "a b", "x" * 129, "\u00e9", "a:b", "a@b"):
        result = node.cli("create", "--", name, source, check=False)
        assert result.returncode == 2, (name, result.stderr)
    for options in (
        ["--requirements", "TARGET.Memory >="],
        ["--requirements", 'regexp("(a+)+$", TARGET.Name)'],
        ["--requirements", "x" * 5000],
        ["--lease", "7"],
        ["--lease", "-1d"],
        ["--replicas", "-3"],
        ["--methods", "pigeon"],
        ["--share", "everybody"],
        ["--tier", "tape"],
        ["--unknown"],
    ):
        result = node.cli("create", "bad", source, *options, check=False)
        assert result.returncode == 2, (options, result.stderr)
        assert "Traceback" not in result.stderr


def test_a_lease_that_cannot_be_is_refused_with_the_longest_that_can(node, source):
    error = refused(node, "bad", source, "--lease", "60d", "--min-lease", "45d", code=5, name="lease_refused")
    assert "30d" in error["message"] + error["hint"]
    refused(node, "bad", source, "--lease", "1h", "--min-lease", "2h", code=5, name="lease_refused")


def test_more_than_the_node_can_hold_is_refused_before_a_byte_is_read(node, source):
    with (source / "huge").open("wb") as file:
        file.truncate(3_000_000_000)
    error = refused(node, "bad", source, code=5, name="no_space")
    assert error["details"]["bytes_needed"] >= 3_000_000_000
    assert 0 < error["details"]["bytes_free"] < 2_100_000_000
    with (source / "huge").open("wb") as file:
        file.truncate(150_000_000)
    error = refused(node, "bad", source, "--tier", "memory", code=5, name="no_space")
    assert error["details"]["bytes_free"] <= 100_000_000


def test_a_taken_name_is_refused_before_and_after_reading(node, source):
    node.cli("create", "taken", source)
    (source / "fine").write_text("FINE")
    before = standing(node)
    error = refused(node, "taken", source, code=5, name="name_taken")
    assert "--replace" in error["hint"]
    (source / "more").write_text("more")
    refused(node, "taken", source, code=5, name="name_taken")
    node.cluster.wait_for(lambda: standing(node) == before, what="nothing to be left behind")
    node.cli("delete", "taken", "--everywhere")


def test_unreadable_files_are_the_callers_own_problem(node, source):
    if os.geteuid() != 0:
        pytest.skip("needs root to be somebody else")
    (source / "fine").chmod(0o600)
    assert (
        str(source / "fine")
        in refused(node, "bad", source, code=4, name="forbidden", user="games")["message"]
    )


def test_ctrl_c_cancels_cleanly(cluster, node, source):
    slow = cluster.start("slow", env={"CACHED_FAULT": "ingest.file:sleep=0.5"})
    for number in range(40):
        (source / f"{number}").write_bytes(os.urandom(100))
    before = standing(slow)
    creating = slow.spawn("create", "cancelled", source, start_new_session=True)
    cluster.wait_for(lambda: list((slow.disk / "incoming").iterdir()), what="the copy to begin")
    os.killpg(creating.pid, signal.SIGINT)
    out, error = creating.communicate(timeout=120)
    assert creating.returncode == 130
    assert out == ""
    assert "nothing was stored" in error
    assert "Traceback" not in error
    cluster.wait_for(lambda: standing(slow) == before, what="nothing to be left behind")
    creating = slow.spawn("create", "killed", source)
    cluster.wait_for(lambda: list((slow.disk / "incoming").iterdir()), what="the copy to begin")
    creating.kill()
    cluster.wait_for(lambda: standing(slow) == before, what="nothing to be left behind")
    assert slow.show("cancelled") == slow.show("killed") == {}


def test_a_file_that_changes_while_it_is_read_is_an_error(node, source):
    with (source / "changing").open("wb") as file:
        file.truncate(800_000_000)  # nothing to write here, and long to copy and to hash
    creating = node.spawn("create", "changing", source)
    node.cluster.wait_for(
        lambda: any((node.disk / "incoming").glob("*/data/changing")), what="the copy to begin"
    )
    while creating.poll() is None:
        os.utime(source / "changing")
    out, error = creating.communicate(timeout=120)
    assert (creating.returncode, out) == (1, "")
    assert "changing" in error
    assert "source_changed" in error


def test_the_quota_counts_logical_bytes_for_each_user(cluster, node, source):
    small = cluster.start("small", policy_quota="1MB")
    (source / "most").write_bytes(os.urandom(700_000))
    small.cli("create", "mine", source)
    before = standing(small)
    other = small.cli("create", "more", source, check=False)
    assert (other.returncode, other.error["code"]) == (5, "quota_exceeded")
    assert standing(small) == before
    usage = {item["owner"]: item for item in small.cli("usage").items()}
    assert next(iter(usage.values()))["bytes"] == 700_012
    if os.geteuid() == 0:
        assert small.cli("create", "theirs", source, user="games").json()["owner"] == "games"
    small.cli("delete", "mine")
    small.cli("create", "more", source)


@pytest.mark.root
def test_a_full_partition_refuses_and_is_never_filled(cluster, node, source):
    place = cluster.root / "full"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "none", place], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs root to mount a small filesystem")
    try:
        tiny = cluster.start("tiny", store_disk=str(place / "disk"), store_capacity="1TB")
        (source / "a").write_bytes(os.urandom(20_000_000))
        tiny.cli("create", "first", source)
        (source / "b").write_bytes(os.urandom(30_000_000))
        before = standing_of(tiny, place / "disk")
        result = tiny.cli("create", "second", source, check=False)
        assert (result.returncode, result.error["code"]) == (5, "no_space")
        assert result.error["details"]["bytes_free"] < 50_000_000
        assert standing_of(tiny, place / "disk") == before
        # Somebody else fills the partition: nothing more is promised, everything is still read and deleted.
        with (place / "foreign").open("wb") as file, pytest.raises(OSError, match="No space"):
            fill(file)
        (source / "b").unlink()
        (source / "a").write_bytes(b"little")
        result = tiny.cli("create", "third", source, check=False)
        assert (result.returncode, result.error["code"]) == (5, "no_space")
        assert len(tiny.cli("cat", "first/a", text=False).stdout) == 20_000_000
        job = tiny.spawn("exec", "first", "--", "sh", "-c", "cat first/fine; read go; cat first/sub/fine")
        assert job.stdout.read(4) == "fine"
        tiny.cli("delete", "first", "--everywhere")
        assert tiny.cli("cat", "first/fine", check=False).returncode == 3
        tiny.kill()
        tiny.restart()
        assert (place / "disk/contents").stat().st_nlink == 3
        assert job.communicate("go\n", timeout=120)[0] == "fine too"
        cluster.wait_for(
            lambda: not list((place / "disk/contents").iterdir()),
            what="the bytes to go with their last reader",
        )
        (place / "foreign").unlink()
        tiny.cli("create", "third", source)
        tiny.stop()
    finally:
        for started in cluster.nodes.values():
            if started.running:
                started.kill()
        subprocess.run(["umount", "-l", place], check=False)


def fill(file):
    while True:
        file.write(os.urandom(1 << 20))
        file.flush()


def standing_of(node, disk: Path) -> tuple[object, ...]:
    tiers = node.status()["tiers"]["disk"]
    return (
        tiers["committed_bytes"], tiers["reserved_bytes"], tiers["going_bytes"],
        *(sorted(path.name for path in (disk / part).iterdir()) for part in ("contents", "incoming", "trash")),
    )  # fmt: skip
