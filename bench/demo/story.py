"""The story: what a user of the cluster does and sees, part by part, driven through the command line and its JSON."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any, Final

from cached.units import format_duration, format_size

from bench.demo.files import collect
from bench.demo.nodes import CommandFailed, Plan
from bench.demo.stage import Stage

#: Bytes of the set, at least.
BYTES: Final = 200_000_000
#: Free space that all of it needs: the files, a copy on each node, and what the nodes leave free.
SPACE: Final = 8 * BYTES + (1 << 30)

#: alpha has the files; delta is elsewhere, takes only sets below 1 GiB, and promises less.
PLANS: Final = (
    Plan(name="alpha", site="main", max_lease="1d", requirements=""),
    Plan(name="beta", site="main", max_lease="1d", requirements='TARGET.Owner != "mallory"'),
    Plan(name="gamma", site="main", max_lease="2d", requirements=""),
    Plan(name="delta", site="annex", max_lease="6h", requirements="TARGET.DiskUsage < 1024 * 1024"),
)
_HERE: Final = 'TARGET.Site == "main"'
_EITHER: Final = 'TARGET.Site == "main" || TARGET.Site == "annex"'
_SUM: Final = "find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum"


def tell(stage: Stage) -> None:
    """Show everything. Raises `CommandFailed` at the first thing that is not as it should be."""
    files = stage.cluster.work / "files"
    _start(stage, files)
    _leases(stage, files)
    _create(stage, files)
    _match(stage)
    _replicate(stage)
    _traffic(stage)
    _job(stage, files)
    _extend(stage)
    _replace(stage)
    _delete(stage)


def _start(stage: Stage, files: Path) -> None:
    with stage.scene("Four nodes, one cluster") as outcome:
        stage.say("One key file makes a cluster. Each node has its own directory, policy and attributes.")
        stage.run("alpha", "cluster", "init", "--key-file", str(stage.cluster.work / "cluster.key"))
        for plan in PLANS:
            node = stage.cluster.start(plan)
            stage.show(
                plan.name, "cached", "daemon", "--config", f"{plan.name}.toml", "--instance", plan.name
            )
            if plan is PLANS[0]:
                stage.cluster.ready(node)  # the others dial it
        count, size = collect(files, BYTES)
        for node in stage.cluster.nodes.values():
            stage.cluster.ready(node)
        stage.cluster.wait(
            "four nodes that know each other",
            lambda: all(
                sum(node["alive"] for node in _nodes(stage, plan.name)) == len(PLANS) for plan in PLANS
            ),
            patience=120,
        )
        stage.run("alpha", "nodes")
        stage.say(f"Real files of this machine to play with: {count} files, {format_size(size)}.")
        outcome.append(f"{len(PLANS)} nodes alive; {count} files, {format_size(size)}")


def _leases(stage: Stage, files: Path) -> None:
    small = min((path for path in files.rglob("*.py") if path.stat().st_size > 1000), default=files)
    with stage.scene("A lease refused, and one shortened") as outcome:
        stage.say(
            "alpha promises a day at most. Who insists on a week gets a refusal, and nothing is stored."
        )
        stage.run("alpha", "create", "notes", str(small), "--lease", "30d", "--min-lease", "7d", expect=5)
        stage.say("Who takes what there is gets a day.")
        _, said = stage.run("alpha", "create", "notes", str(small), "--lease", "30d", "--replicas", "0")
        if "shorter than asked" not in said:
            raise CommandFailed("the lease was not shortened")
        left = stage.cluster.ask("alpha", "show", "notes")["lease"]["seconds_left"]
        outcome.append(
            f"30d with at least 7d refused; 30d shortened to {format_duration(round(left / 60) * 60)}"
        )


def _create(stage: Stage, files: Path) -> None:
    with stage.scene("Create a set") as outcome:
        stage.say(
            "The files are copied, hashed and synced once; then they never change. Two replicas, same site."
        )
        stage.run(
            "alpha",
            "create",
            "pylib",
            str(files),
            "--lease",
            "2h",
            "--replicas",
            "2",
            "--requirements",
            _HERE,
        )
        found = _show(stage, "alpha")
        outcome.append(
            f"{found['files']} files, {format_size(found['bytes'])}, content {found['content'][:12]}"
        )


def _match(stage: Stage) -> None:
    with stage.scene("Match") as outcome:
        stage.say(
            "The set's requirements and each node's must both hold. delta refuses, and the reason is named."
        )
        stage.run("alpha", "match", "pylib")
        verdicts = {one["node"]: one for one in stage.cluster.ask("alpha", "match", "pylib")}
        if verdicts["delta"]["matches"] or not verdicts["beta"]["matches"]:
            raise CommandFailed(f"unexpected verdicts: {verdicts}")
        outcome.append(f"delta refused: {'; '.join(verdicts['delta']['reasons'])}")


def _replicate(stage: Stage) -> None:
    with stage.scene("Replicate") as outcome:
        stage.say("Replication has begun by itself when create answered: beta and gamma match.")
        stage.watch("alpha", "pylib", ["beta", "gamma"], patience=120)
        stage.run("beta", "locate", "pylib")
        outcome.append("beta and gamma hold verified copies")


def _traffic(stage: Stage) -> None:
    with stage.scene("Who sent how much") as outcome:
        size = _show(stage, "alpha")["bytes"]
        stage.show("*", "cached", "status", "--json")
        rows, sent = [], {}
        for name in ("alpha", "beta", "gamma"):
            moved = [one for one in stage.cluster.ask(name, "status")["traffic"] if one["name"] == "pylib"]
            sent[name] = sum(one["bytes_sent"] for one in moved)
            received = sum(one["bytes_received"] for one in moved)
            rows.append((name, format_size(sent[name]), format_size(received), f"{sent[name] / size:.2f}"))
        stage.table(["NODE", "SENT", "RECEIVED", "COPIES SENT"], rows)
        copies = sent["alpha"] / size
        stage.say(f"Two copies were delivered; {copies:.2f} left the source, the rest came from each other.")
        outcome.append(f"{copies:.2f} copies left the source, 2 were delivered")


def _job(stage: Stage, files: Path) -> None:
    with stage.scene("A job on another node") as outcome:
        stage.say("No copy is made: the daemon on beta hands the job a directory.")
        out, _ = stage.run("beta", "exec", "pylib", "--", "sh", "-c", "grep -rl asyncio {pylib}/ | wc -l")
        stage.run("beta", "exec", "pylib", "--", "sh", "-c", "echo $CACHED_PYLIB && ls $CACHED_PYLIB/")
        summed, _ = stage.run("beta", "exec", "pylib", "--", "sh", "-c", f"cd $CACHED_PYLIB && {_SUM}")
        expected = subprocess.run(
            ["sh", "-c", _SUM],
            cwd=files,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            check=True,
        )
        if summed != expected.stdout:
            raise CommandFailed("the job on beta read other bytes than alpha committed")
        outcome.append(f"{out.strip()} files mention asyncio; SHA-256 of all bytes is that of the source")


def _extend(stage: Stage) -> None:
    with stage.scene("Extend the lease") as outcome:
        before = _show(stage, "alpha")["lease"]["seconds_left"]
        stage.run("alpha", "extend", "pylib", "12h", "--everywhere")
        after = _show(stage, "alpha")["lease"]["seconds_left"]
        if after <= before:
            raise CommandFailed("the lease is not longer than before")
        outcome.append(f"from {_hours(before)} to {_hours(after)} on every holder")


def _replace(stage: Stage) -> None:
    with stage.scene("A node dies, its replica is replaced") as outcome:
        stage.say(
            "delta may take over: the owner lets the set go to the annex too. Two replicas are enough: none moves."
        )
        stage.run("alpha", "update", "pylib", "--requirements", _EITHER)
        stage.run("alpha", "match", "pylib")
        stage.show("alpha", "kill", "-9", f"{stage.cluster.nodes['gamma'].process.pid}", note="   # gamma")
        stage.cluster.kill("gamma")
        stage.say("Nobody does anything now. The others notice, and bring the replica count back to two.")
        seconds = stage.watch("alpha", "pylib", ["delta"], patience=120)
        stage.run("alpha", "show", "pylib", most=30)
        grant = next(one for one in _show(stage, "alpha")["replicas"] if one["node"] == "delta")
        stage.say(
            "delta promises 6h at most, and said so; it renews its promise while the set's lease lasts."
        )
        outcome.append(
            f"gamma killed -9; after {seconds:.0f} s delta holds a copy, for {_hours(grant['lease_seconds_left'])}"
        )


def _delete(stage: Stage) -> None:
    with stage.scene("Delete everywhere") as outcome:
        stage.run("beta", "delete", "pylib", "--everywhere", "--dry-run")
        stage.say("Any node where the owner is known may do it; gamma will hear of it when it returns.")
        stage.run("beta", "delete", "pylib", "--everywhere")
        living = ("alpha", "beta", "delta")
        stage.cluster.wait(
            "the set gone everywhere", lambda: not any(_holds(stage, name) for name in living), patience=120
        )
        stage.cluster.ready(stage.cluster.start(next(plan for plan in PLANS if plan.name == "gamma")))
        stage.say(
            "gamma is back, with its copy on disk: it learns of the deletion before it says what it holds."
        )
        stage.cluster.wait("the set gone from gamma too", lambda: not _holds(stage, "gamma"), patience=120)
        stage.run("gamma", "show", "pylib", expect=3)
        outcome.append("gone from all nodes, also from the one that was away")


def _holds(stage: Stage, name: str) -> bool:
    disk = stage.cluster.ask(name, "status")["tiers"]["disk"]
    known = any(one["name"] == "pylib" for one in stage.cluster.ask(name, "list"))
    return known or disk["committed_bytes"] + disk["going_bytes"] > BYTES


def _nodes(stage: Stage, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = stage.cluster.ask(name, "nodes")
    return found


def _show(stage: Stage, name: str) -> dict[str, Any]:
    found: dict[str, Any] = stage.cluster.ask(name, "show", "pylib")
    return found


def _hours(seconds: float) -> str:
    return format_duration(round(seconds / 60) * 60)
