"""The matchmaker with real ads, and with ads that try to stop it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cached.errors import BadExpression, Busy
from cached.matching import ads
from cached.matchmaker.pool import Matchmaker
from cached.sets.set import SetRecord


def _joined(letter: str, count: int) -> str:
    """A text of a few hundred characters that becomes a list of `count` squared items."""
    separator = "," + f"{letter}," * count
    return f'join("{separator}", split("{separator}{letter}", ","))'


def _rejoined(letter: str, count: int) -> str:
    separator = "," + f"{letter}," * count
    return f'join("{separator}", split({_joined(letter, count)}, ","))'


#: Takes about four seconds of CPU in the bare library, from functions that everybody may use.
SLOW = f'stringListSubsetMatch({_rejoined("a", 220)}, strcat({_rejoined("b", 220)}, ",a"))'
#: Makes the library abort for want of memory, after little work: long texts between many short ones.
FAT = f'size(join({_joined("a", 300)}, split({_joined("a", 80)}, ","))) > 3'


def cache_set(name: str, requirements: str = "", **changes) -> ads.Ad:
    fields = {"bytes": 5 << 20, "files": 3, "lease_seconds": 60, "share": "public", **changes}
    record = SetRecord(
        id="a" * 32,
        name=name,
        owner="ada",
        content="c" * 64,
        originator="n0",
        requirements=requirements,
        **fields,
    )
    return ads.set_ad(record, lease_seconds_left=60)


def node(name: str, policy: str = "", attributes=None, *, memory: int = 16) -> ads.Ad:
    facts = ads.NodeFacts(
        node_id="f" * 40, name=name, machine=name, total_disk_bytes=8 << 30, memory_bytes=memory << 30
    )
    return ads.node_ad(facts, policy, attributes)


def run(body, **limits):
    async def inside():
        matchmaker = Matchmaker(**limits)
        try:
            return await body(matchmaker)
        finally:
            await matchmaker.close()

    return asyncio.run(inside())


def test_pairs_are_answered_in_order_and_say_why_not():
    async def body(matchmaker):
        pairs = [
            (cache_set("nr", "TARGET.Memory >= 8192"), node(f"n{size}", memory=size)) for size in (4, 16, 2)
        ]
        verdicts = await matchmaker.match(pairs)
        assert [verdict.matches for verdict in verdicts] == [False, True, False]
        assert verdicts[0].reasons == (
            "set side: TARGET.Memory >= 8192 is false: TARGET.Memory is 4096 (4.0 GiB)",
        )
        assert await matchmaker.match([]) == []

    run(body)


def test_the_daemon_itself_never_loads_the_classad_library():
    code = (
        "import asyncio, sys\n"
        "from cached.matchmaker.pool import Matchmaker\n"
        "async def main():\n"
        "    m = Matchmaker()\n"
        "    await m.check('TARGET.Memory > 1')\n"
        "    await m.close()\n"
        "asyncio.run(main())\n"
        "print([name for name in sys.modules if 'classad' in name or 'htcondor' in name])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_broken_expressions_are_quoted_and_checked_ones_pass():
    async def body(matchmaker):
        await matchmaker.check('TARGET.Memory >= 8192 && stringListMember("a", TARGET.Labels)')
        for text in ("TARGET.Memory >=", "1 2", "a &&", 'regexp("a", TARGET.Name)', "f(", "x" * 5000):
            with pytest.raises(BadExpression) as caught:
                await matchmaker.check(text)
            assert text[:10] in caught.value.message

    run(body)


def test_a_slow_expression_stops_nobody():
    async def body(matchmaker):
        fine, slow = cache_set("fine"), cache_set("slow", SLOW)
        here, there = node("n1"), node("n2")
        assert len(SLOW) <= 4096
        verdicts = await matchmaker.match([(fine, here), (slow, here), (fine, there), (slow, there)])
        assert [verdict.matches for verdict in verdicts] == [True, False, True, False]
        assert "set slow took longer than 0.5 s" in verdicts[1].reasons[0]
        starts = matchmaker.starts
        again = await matchmaker.match([(cache_set("slow", SLOW, bytes=7), node("n3")), (fine, node("n3"))])
        assert [verdict.matches for verdict in again] == [False, True]
        assert matchmaker.starts == starts, "what is guilty is refused without another attempt"

    run(body)


def test_an_expression_that_crashes_the_child_is_survived_and_remembered():
    async def body(matchmaker):
        fine, fat = cache_set("fine"), cache_set("fat", FAT)
        verdicts = await matchmaker.match([(fat, node("n1")), (fine, node("n1"))])
        assert [verdict.matches for verdict in verdicts] == [False, True]
        assert "made the evaluator fail" in verdicts[0].reasons[0]
        assert (matchmaker.starts, verdicts[0].node_side) == (2, True)
        assert not (await matchmaker.match([(fat, node("n2"))]))[0].matches
        assert matchmaker.starts == 2

    run(body, cpu_seconds=60)  # it is the memory that ends it, however slow the machine


def test_a_node_whose_attributes_explode_is_to_blame_and_not_the_set_that_asked():
    async def body(matchmaker):
        doubling = {"A0": "1 + 0", **{f"A{n + 1}": f"A{n} + A{n}" for n in range(60)}}
        bomb, asking = node("bomb", attributes=doubling), cache_set("asking", "TARGET.A60 isnt 7")
        verdicts = await matchmaker.match([(asking, bomb), (asking, node("n1")), (cache_set("other"), bomb)])
        assert [verdict.matches for verdict in verdicts] == [False, True, False]
        assert "node bomb took longer" in verdicts[0].reasons[0]
        assert verdicts[0].set_side
        assert not verdicts[0].node_side

    run(body)


def test_slow_requirements_of_a_node_are_blamed_on_the_node():
    async def body(matchmaker):
        verdicts = await matchmaker.match(
            [(cache_set("a"), node("slow", SLOW)), (cache_set("a"), node("n1"))]
        )
        assert [verdict.matches for verdict in verdicts] == [False, True]
        assert "node side: evaluating the expressions of node slow took longer" in verdicts[0].reasons[0]

    run(body)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 1500 + "1" + ")" * 1500,
        "!" * 4000 + "true",
        "{" * 60 + "}" * 60,
        "1" + "&&1" * 1300,
        "- " * 2000 + "1",
        "1?" * 800 + "1" + ":1" * 800,
        "a." * 1500 + "a",
        "a" + "[0]" * 1300,
        "''(1)",
        "\x00",
        "'(a)",
    ],
    ids=range(11),
)
def test_odd_expressions_are_refused_or_answered_but_never_hang(text):
    async def body(matchmaker):
        broken = {**node("odd"), "Requirements": ads.expr(text)}
        verdicts = await matchmaker.match([(cache_set("a"), broken), (cache_set("a"), node("n1"))])
        assert verdicts[1].matches
        assert verdicts[0].matches or verdicts[0].reasons

    run(body)


@pytest.mark.parametrize(
    "ad",
    [
        {"Requirements": "true"},
        {"Requirements": ads.expr("true; Evil = 1")},
        {"x y": 1},
        {"A": None},
        {"A": {"B": 1}},
        {"A": 1, "a": 2},
        {"A": 2**64},
        {"A": float("nan")},
        {"A": object()},
        {1: 2},
        [],
        {"A": "�"},
        {},
    ],
    ids=range(13),
)
def test_malformed_ads_from_peers_do_not_match_and_hurt_nobody(ad):
    async def body(matchmaker):
        verdicts = await matchmaker.match([(cache_set("a"), ad), (cache_set("a"), node("n1"))])
        assert [verdict.matches for verdict in verdicts] == [False, True]
        assert verdicts[0].reasons
        assert not verdicts[0].node_side or not verdicts[0].set_side

    run(body)


def test_a_child_killed_from_outside_costs_nothing_but_a_restart():
    async def body(matchmaker):
        await matchmaker.start()
        os.kill(matchmaker.pid, signal.SIGKILL)
        verdicts = await matchmaker.match([(cache_set("a"), node("n1"))])
        assert verdicts[0].matches
        assert matchmaker.starts == 2

    run(body)


def test_only_changed_ads_are_matched_again():
    async def body(matchmaker):
        nodes = [node(f"n{number}") for number in range(600)]
        first = await matchmaker.match([(cache_set("a"), ad) for ad in nodes])
        os.kill(matchmaker.pid, signal.SIGKILL)
        again = await matchmaker.match([(cache_set("a"), dict(ad)) for ad in nodes])
        assert again == first
        assert matchmaker.starts == 1, "all verdicts were remembered"

    run(body)


def test_remembered_verdicts_are_bounded():
    async def body():
        matchmaker = Matchmaker(max_verdicts=10)
        await matchmaker.match([(cache_set("a"), node(f"n{number}")) for number in range(50)])
        kept = len(matchmaker._verdicts)
        await matchmaker.close()
        return kept

    assert asyncio.run(body()) == 10


def test_the_child_inherits_no_socket_and_dies_with_its_parent():
    code = (
        "import asyncio, os, socket, sys\n"
        "from cached.matchmaker.pool import Matchmaker\n"
        "held = socket.socket(); held.set_inheritable(True)\n"
        "async def main():\n"
        "    m = Matchmaker()\n"
        "    await m.start(); await m.check('1')\n"
        "    links = [os.readlink(f'/proc/{m.pid}/fd/{n}') for n in os.listdir(f'/proc/{m.pid}/fd')]\n"
        "    print(m.pid, any('socket' in link for link in links), flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    pid, has_socket = done.stdout.split()
    assert (done.returncode, has_socket) == (-signal.SIGKILL, "False")
    _wait_until_gone(int(pid))


def _wait_until_gone(pid: int) -> None:
    status = Path(f"/proc/{pid}/status")
    for _ in range(3000):
        try:
            if "State:\tZ" in status.read_text():
                return
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(0.02)
    pytest.fail("the child outlived its parent")


def test_questions_after_close_are_refused_and_close_ends_open_ones():
    async def body():
        matchmaker = Matchmaker()
        await matchmaker.start()
        pid = matchmaker.pid
        slow = asyncio.create_task(matchmaker.match([(cache_set("slow", SLOW), node("n1"))]))
        await asyncio.sleep(0.05)
        await matchmaker.close()
        with pytest.raises(Busy):
            await slow
        with pytest.raises(Busy):
            await matchmaker.check("1")
        return pid

    _wait_until_gone(asyncio.run(body()))
