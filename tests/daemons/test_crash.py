"""Crash safety: `kill -9`, I/O errors and full disks at every step of what one node does, and nothing acknowledged is lost.

One walk visits every fault point that a node by itself can reach; it fails when a point is declared and not walked, and when
an operation no longer comes by the point that it is to die at.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import shutil
import time
from pathlib import Path

import cached
import pytest
from cached import faults
from tests.daemons.cluster import Cluster
from tests.daemons.walk import (
    AT_START,
    CREATE,
    DELETE,
    ELSEWHERE,
    MEMORY,
    REPAIR,
    SIMPLE,
    WALK,
    Operation,
    Walk,
    create,
    create_in_memory,
    delete,
    extend,
    reclaim,
    update,
)

pytestmark = [pytest.mark.daemon, pytest.mark.crash]


@pytest.fixture
def walk(cluster: Cluster) -> Walk:
    return Walk(cluster, cluster.start("a", store_capacity="50MB"))


def test_every_declared_fault_point_is_walked_somewhere():
    for module in pkgutil.walk_packages(cached.__path__, "cached."):
        if "classad" not in module.name and module.name not in (
            "cached.matching.engine",
            "cached.matchmaker.child",
        ):
            importlib.import_module(module.name)
    walked = {point for point, _ in WALK} | AT_START | set(REPAIR)
    declared = {point for point in faults.registered() if not point.startswith("tests.")}
    assert declared == walked | set().union(*ELSEWHERE.values())
    assert not walked & set().union(*ELSEWHERE.values())


@pytest.mark.timeout(1800)
def test_killed_at_any_step_a_node_loses_nothing_acknowledged_and_leaves_nothing_behind(walk):
    node = walk.node
    armed = ""
    for (point, operation), (following, after) in zip(WALK, [*WALK[1:], ("", delete)], strict=True):
        if armed != point:
            operate, check = operation(walk)
            node.restart(env={"CACHED_FAULT": f"{point}:kill"})
        else:
            operate, check = operation(walk)
        result = operate()
        assert node.wait_exit() == -9, f"{operation.__name__} does not come by {point}: {result}"
        assert result.returncode in (0, 6), (point, result)  # done, or the daemon is not reachable
        assert "Traceback" not in result.stderr
        armed = following if after in SIMPLE else ""
        node.restart(env={"CACHED_FAULT": f"{armed}:kill"} if armed else {})
        check(result.returncode == 0)
        walk.forget("subject")


def test_killed_while_it_starts_a_node_starts_again(walk):
    node = walk.node
    source = walk.source("orphan")
    node.restart(env={"CACHED_FAULT": "store.published:kill"})
    node.cli("create", "orphan", source, check=False)
    assert node.wait_exit() == -9
    node.restart(wait=False, env={"CACHED_FAULT": "recover.cleaned:kill"})
    assert node.wait_exit() == -9
    node.restart()
    walk.settled()
    assert node.show("orphan") == {}
    node.stop()
    for path in node.state.glob("catalog.db*"):
        path.unlink()
    node.restart(wait=False, env={"CACHED_FAULT": "recover.adopted:kill"})
    assert node.wait_exit() == -9
    node.restart()
    walk.cluster.wait_for(lambda: node.show("kept"), what="the set to be adopted")
    walk.settled()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("action", ["error", "full"])
def test_at_every_step_an_error_of_the_disk_is_told_in_words_and_the_node_goes_on(walk, action):
    """Each point fails at its first hit, so that one daemon comes by all of them, one attempt after the other."""
    node = walk.node
    node.may_log = "fault point|Traceback"
    plans: list[tuple[Operation, list[str]]] = [
        (create, CREATE),
        (create_in_memory, MEMORY),
        (update, ["update.kept"]),
        (extend, ["extend.kept"]),
        (delete, ["delete.kept"]),
        (delete, [point for point in DELETE if point != "delete.kept"]),
        (reclaim, ["reclaim.chosen"]),
    ]
    for operation, points in plans:
        operate, check = operation(walk)
        node.restart(env={"CACHED_FAULT": ",".join(f"{point}@1:{action}" for point in points)})
        results = [operate()]
        done = {0, 3} if operation is delete else {0}  # what an error cut short may be gone all the same
        while (results[-1].returncode not in done or operation is create_in_memory) and len(results) <= len(
            points
        ):
            if operation is create:
                walk.settled()
            results.append(operate())
        for result in (each for each in results if each.returncode):
            assert "Traceback" not in result.stderr
            assert result.returncode in (1, 3, 5), result
            assert result.error["message"], result
            assert action == "error" or result.error["code"] in ("no_space", "not_found"), result
        assert results[-1].returncode in done, f"{operation.__name__} never succeeds: {results[-1]}"
        check(True)
        walk.forget("subject")
        said = node.last_log + "".join(result.stderr for result in results)
        missed = [point for point in points if action == "error" and f"(fault point {point})" not in said]
        assert not missed, f"{operation.__name__} does not come by {missed}"
        node.restart()


def test_a_lost_database_costs_no_set_no_owner_and_no_sharing(walk):
    node, cluster = walk.node, walk.cluster
    users: list[str | None] = [None]
    if os.geteuid() == 0:
        users.append("games")
    sources = {}
    for user in users:
        for share in ("private", "public", "group:mail"):
            name = f"{user or 'root'}-{share.partition(':')[0]}"
            sources[name] = (walk.source(name), user, share)
            node.cli("create", name, sources[name][0], "--share", share, "--lease", "9d", user=user)
    node.cli("create", "gone", walk.source("gone"))
    node.cli("delete", "gone", "--everywhere")
    walk.settled()
    before = {name: node.show(name, user=user) for name, (_, user, _) in sources.items()}
    node.kill()
    for path in node.state.glob("catalog.db*"):
        path.unlink()
    node.restart()
    for name, (source, user, share) in sources.items():
        found = cluster.wait_for(
            lambda name=name, user=user: node.show(name, user=user), what=f"{name} to be adopted"
        )
        for key in ("id", "owner", "content", "share", "revision", "requirements", "bytes", "files"):
            assert found[key] == before[name][key]
        assert found["share"] == share
        assert 0 < found["lease"]["seconds_left"] <= 86_400
        assert node.cli("cat", f"{name}/0", text=False, user=user).stdout == (source / "0").read_bytes()
    assert node.show("gone") == {}
    if os.geteuid() == 0:
        assert {item["name"] for item in node.cli("list", user="mail").items()} == {
            f"{who}-{share}" for who in ("root", "games") for share in ("public", "group")
        }
    walk.settled()


def test_a_damaged_database_is_kept_aside_and_the_sets_come_back(walk):
    node = walk.node
    node.stop()
    path = node.state / "catalog.db"
    path.write_bytes(os.urandom(path.stat().st_size))
    for extra in ("-wal", "-shm"):
        path.with_name(path.name + extra).unlink(missing_ok=True)
    node.restart()
    walk.cluster.wait_for(lambda: node.show("kept"), what="the set to be adopted")
    walk.settled()
    assert "catalog.lost" in node.last_log
    assert len(list(node.state.glob("catalog.db*"))) > 1


@pytest.mark.parametrize("point", REPAIR)
def test_damage_is_found_named_and_mended_also_across_a_crash(cluster, point):
    """Also in another set that has the damaged file: it is one file before and after."""
    a, b = cluster.start("a"), cluster.start("b")
    cluster.together()
    walk = Walk(cluster, a)
    twin = walk.source("twin")
    (twin / "1").write_bytes((walk.kept / "1").read_bytes())
    a.cli("create", "twin", twin, "--replicas", "0")
    made = a.cli("replicate", "kept", "--to", "b", "--wait", check=False)
    assert made.returncode == 0, made
    broken = a.disk / "contents" / a.show("kept")["content"] / "data" / "1"
    a.restart(env={"CACHED_FAULT": f"{point}:kill"})
    cluster.together()
    broken.chmod(0o644)
    broken.write_bytes(bytes(20_000))
    broken.chmod(0o444)
    found = a.cli("verify", "kept", check=False)
    assert found.returncode == 7
    assert [damage["path"] for damage in found.json()["damaged"]] == ["1"]
    a.cli("verify", "kept", "--repair", check=False)
    assert a.wait_exit() == -9
    a.restart()
    assert a.cli("verify", "kept", check=False).returncode in (0, 7)
    cluster.together()
    a.cli("verify", "kept", "--repair")
    cluster.wait_for(
        lambda: not a.cli("verify", "twin", check=False).returncode, what="the twin to be mended"
    )
    walk.intact("twin", twin)
    walk.settled()
    assert b.cli("verify", "kept").json()["ok"]


def test_what_was_acknowledged_survives_many_kills_at_random(walk):
    node = walk.node
    acknowledged: dict[str, Path] = {}
    for turn in range(4):
        sources = [walk.source(f"turn{turn}") for _ in range(6)]
        running = [node.spawn("create", f"s{turn}-{index}", source) for index, source in enumerate(sources)]
        time.sleep(0.25 + 0.15 * turn)  # anywhere in the middle: every moment must be safe
        node.kill()
        for index, (child, source) in enumerate(zip(running, sources, strict=True)):
            out, error = child.communicate(timeout=120)
            assert child.returncode in (0, 6), error
            if child.returncode == 0:
                assert out
                acknowledged[f"s{turn}-{index}"] = source
        node.restart()
        for name, source in acknowledged.items():
            walk.intact(name, source)
        for index, source in enumerate(sources):
            walk.absent_or_whole(f"s{turn}-{index}", source)
    walk.settled()
    shutil.rmtree(walk.cluster.work, ignore_errors=True)


def test_a_stop_in_the_middle_of_creations_ends_each_as_done_or_as_never_begun(walk):
    node = walk.node
    node.restart(env={"CACHED_FAULT": "store.settled:sleep=2,ingest.file@20:sleep=2"})
    sources = [walk.source("stopped") for _ in range(4)]
    running = [node.spawn("create", f"stopped{index}", source) for index, source in enumerate(sources)]
    walk.cluster.wait_for(lambda: any((node.disk / "incoming").glob("*/manifest")), what="one to be sealed")
    node.stop()
    node.restart()
    for index, (child, source) in enumerate(zip(running, sources, strict=True)):
        _, error = child.communicate(timeout=120)
        assert child.returncode in (0, 1, 5, 6), error
        assert "Traceback" not in error
        there = walk.absent_or_whole(f"stopped{index}", source)
        assert there or child.returncode != 0
    walk.settled()
