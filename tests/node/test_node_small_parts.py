"""Locks, steps that are not cut in two, pins, consents, rejections, counters."""

from __future__ import annotations

import asyncio

import pytest
from cached.critical import to_the_end
from cached.errors import Busy
from cached.leases.pin import Pin, Process
from cached.node import consents as consents_module
from cached.node import rejections as rejections_module
from cached.node.consents import Consents
from cached.node.counters import Counters
from cached.node.locks import Locks
from cached.node.pins import Pins, is_alive, process_of
from cached.node.rejections import Rejections
from cached.storage.pinlog import PinLog
from hypothesis import given
from hypothesis import strategies as st
from tests.node.doubles import BOOT

# Locks


def test_what_has_one_key_happens_one_after_the_other_and_other_keys_do_not_wait():
    async def story():
        locks, seen = Locks(), []
        entered = asyncio.Event()

        async def hold(key, name):
            async with locks(key):
                seen.append(f"{name} in")
                entered.set()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                seen.append(f"{name} out")

        await asyncio.gather(hold("x", "a"), hold("x", "b"))
        assert seen == ["a in", "a out", "b in", "b out"]
        async with locks("x"), asyncio.timeout(60):
            await hold("y", "c")
        assert not locks._locks

    asyncio.run(story())


def test_a_lock_that_is_given_up_while_waiting_leaves_nothing():
    async def story():
        locks = Locks()

        async def want():
            async with locks("x"):
                raise AssertionError("never entered")

        async with locks("x"):
            task = asyncio.create_task(want())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
        assert task.cancelled()
        assert not locks._locks

    asyncio.run(story())


# Steps that come to their end


def test_a_critical_step_ends_before_a_cancellation_is_heard():
    async def story():
        go, done = asyncio.Event(), []

        async def step():
            await go.wait()
            done.append(True)
            return 5

        task = asyncio.create_task(to_the_end(step()))
        for _ in range(3):
            await asyncio.sleep(0)
            task.cancel()
        assert not task.done()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert done == [True]
        assert await to_the_end(step()) == 5

    asyncio.run(story())


def test_a_critical_step_passes_its_error_on():
    async def fail():
        raise Busy("no")

    with pytest.raises(Busy):
        asyncio.run(to_the_end(fail()))


# Pins

ONE, TWO = Process(11, 1), Process(12, 1)


def pins_at(path, alive=lambda _: True):
    pins = Pins(PinLog(path, BOOT), alive)
    pins.load()
    return pins


@given(steps=st.lists(st.tuples(st.sampled_from("hr"), st.sampled_from("ab"), st.sampled_from([ONE, TWO]))))
def test_a_content_is_pinned_exactly_while_somebody_has_it_open(tmp_path_factory, steps):
    pins = pins_at(tmp_path_factory.mktemp("pins") / "log")
    freed, model = [], []
    pins.on_free = freed.append
    for step, content, process in steps:
        pin = Pin("set", content, process)
        before = len(freed)
        if step == "h":
            pins.hold(pin)
            model.append(pin)
        elif pin in model:
            model.remove(pin)
            pins.release(pin)
            assert freed[before:] == ([] if any(one.content == content for one in model) else [content])
        else:
            pins.release(pin)
            assert freed[before:] == []
        for each in "ab":
            assert pins.pinned(each) == any(one.content == each for one in model)
        assert pins.count() == len(model)
        assert pins.holds("set", content, process) == (pin in model)
    pins.close()
    again = pins_at(tmp_path_factory.mktemp("other") / "log")
    assert again.count() == 0
    again.close()


def test_pins_outlive_the_daemon_as_long_as_their_process(tmp_path):
    pins = pins_at(tmp_path / "log")
    pins.hold(Pin("s", "c", ONE))
    pins.hold(Pin("s", "c", TWO))
    pins.close()
    living = {ONE, TWO}
    after = pins_at(tmp_path / "log", lambda process: process in living)
    freed = []
    after.on_free = freed.append
    assert after.holds("s", "c", ONE)
    after.hold(Pin("s", "c", ONE))
    after.release(Pin("s", "c", ONE))
    assert after.holds("s", "c", ONE), "the descriptor of before is still open in that process"
    living.discard(ONE)
    after.sweep()
    assert after.pinned("c")
    assert freed == []
    living.discard(TWO)
    after.sweep()
    assert not after.pinned("c")
    assert freed == ["c"]
    after.close()
    last = pins_at(tmp_path / "log")
    assert last.count() == 0
    last.close()


def test_a_process_is_known_by_pid_and_start_time():
    import os

    me = process_of(os.getpid())
    assert me is not None
    assert is_alive(me)
    assert not is_alive(Process(me.pid, me.start_time + 1))
    assert process_of(2**22 + 1) is None


# Consents


def test_consent_is_for_one_peer_and_content_ends_and_is_renewed_by_use(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(consents_module.time, "monotonic", lambda: now[0])
    consents = Consents()
    consents.give("p", "c")
    assert not consents.allowed("q", "c")
    assert not consents.allowed("p", "d")
    now[0] += consents_module.LASTS - 1
    assert consents.allowed("p", "c")
    now[0] += consents_module.LASTS - 1
    assert consents.allowed("p", "c"), "asking has renewed it"
    now[0] += consents_module.LASTS + 1
    assert not consents.allowed("p", "c")
    assert not consents.allowed("p", "c"), "asking in vain renews nothing"


def test_consents_to_a_content_are_taken_back_for_everybody():
    consents = Consents()
    for peer in "pq":
        consents.give(peer, "c")
    consents.give("p", "d")
    consents.withdraw("c")
    assert not consents.allowed("p", "c")
    assert not consents.allowed("q", "c")
    assert consents.allowed("p", "d")


# Rejections


def test_a_refusal_stands_for_a_quarter_of_an_hour_or_until_an_ad_changes(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(rejections_module.time, "monotonic", lambda: now[0])
    refused = Rejections()
    refused.add("s", "n", "too little memory", "ads")
    assert refused.stands("s", "n", "ads")
    assert not refused.stands("s", "n", "other ads")
    assert not refused.stands("s", "m", "ads")
    assert {node: one.reason for node, one in refused.of("s").items()} == {"n": "too little memory"}
    now[0] = rejections_module.LASTS - 1
    assert refused.stands("s", "n", "ads")
    now[0] = rejections_module.LASTS + 1
    assert not refused.stands("s", "n", "ads")
    assert refused.of("s") == {}


def test_refusals_end_with_an_acceptance_or_a_new_record_and_own_ones_with_a_welcome():
    refused = Rejections()
    refused.add("s", "n", "r", "ads")
    refused.accepted("s", "n")
    assert refused.of("s") == {}
    refused.add("s", "n", "r", "ads")
    refused.forget("s")
    assert refused.of("s") == {}
    refused.add_own("s", "the owner said so")
    assert refused.own("s").reason == "the owner said so"
    refused.forget("s")
    assert refused.own("s"), "another revision does not make up for what the owner said"
    refused.welcome("s")
    assert refused.own("s") is None
    refused.add_own("s", "gone", seconds=-1.0)
    assert refused.own("s") is None
    refused.add("s", "n", "r", "ads")
    refused.add_own("s", "x")
    refused.drop("s")
    assert (refused.of("s"), refused.own("s")) == ({}, None)


# Counters


def test_everything_noted_is_counted_by_name(caplog):
    counters = Counters()
    counters.add("a", 3)
    with caplog.at_level("INFO"):
        counters.note("b.reason", "something happened", set="12345678")
    counters.background_failed("sweep", ValueError("x"))
    assert counters.snapshot() == {"a": 3, "b.reason": 1, "background_failed": 1}
    assert "b.reason something happened set=12345678" in caplog.text
    assert list(counters.snapshot()) == sorted(counters.snapshot())
