"""Whether somebody stays awake for what comes soon: as long as that pays, and nobody else wants the processor."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from cached.vigil import CROWDED, LONGEST, LOOK_EVERY, MOST_LEFT_OUT, Vigil, waited

#: Microseconds that a look takes, and a vigil at most.
LOOK = 1
WHOLE = round(LONGEST * 1e6)


class Daemon:
    """Answers after so many microseconds of its own clock, and counts how often somebody looked."""

    def __init__(self, *, after: int, processors: int = 2) -> None:
        self.after = after
        self.look = LOOK
        self.now = 0
        self.looks = 0
        #: Microseconds for which who asks has waited for a processor.
        self.waited = 0.0
        #: Whether there are more threads than processors.
        self.crowd = False
        self.vigil = Vigil(
            clock=lambda: self.now / 1e6,
            waited=lambda: self.waited / 1e6,
            crowd=lambda: self.crowd,
            processors=lambda: processors,
        )

    def ask(self) -> int:
        """Wait for an answer; return how often was looked for it meanwhile."""
        self.looks, due = 0, self.now + self.after

        def arrived() -> bool:
            self.looks += 1
            self.now += self.look
            return self.now >= due

        self.vigil.keep(arrived)
        return self.looks


def test_who_is_answered_soon_is_awake_when_the_answer_comes():
    daemon = Daemon(after=20 * LOOK)
    assert [daemon.ask() for _ in range(3)] == [20, 20, 20]


def test_a_vigil_ends_after_a_moment():
    daemon = Daemon(after=10**7)
    assert daemon.ask() * LOOK == pytest.approx(WHOLE, abs=2 * LOOK)


def test_vigils_in_vain_are_left_out_ever_longer_up_to_a_limit():
    daemon = Daemon(after=10**7)
    pauses, pause = [], 0
    while len(pauses) < 11:
        if daemon.ask():
            pauses.append(pause)
            pause = 0
        else:
            pause += 1
    assert pauses == [0, 1, 3, 7, 15, 31, 63, 127, MOST_LEFT_OUT, MOST_LEFT_OUT, MOST_LEFT_OUT]


def test_one_slow_answer_among_quick_ones_costs_one_vigil():
    daemon = Daemon(after=5 * LOOK)
    daemon.ask()
    daemon.after = 10**6
    daemon.ask()
    daemon.after = 5 * LOOK
    assert [daemon.ask() for _ in range(3)] == [0, 5, 5]


def test_a_vigil_that_pays_makes_up_for_a_part_of_one_in_vain():
    daemon = Daemon(after=10**6)
    for _ in range(1 + 1 + 1 + 3 + 1):
        daemon.ask()  # three in vain
    assert [daemon.ask() for _ in range(7)] == [0] * 7
    daemon.after = 5 * LOOK
    assert daemon.ask() == 5
    daemon.after = 10**6
    assert daemon.ask() > 0
    assert [daemon.ask() for _ in range(11)] == [0] * 11
    assert daemon.ask() > 0


def test_where_every_other_vigil_is_in_vain_most_are_left_out_in_the_end():
    daemon, kept = Daemon(after=10**6), 0
    for _ in range(2000):
        kept += bool(daemon.ask())
        daemon.after = 5 * LOOK if kept % 2 else 10**6
    assert kept < 200


def test_an_answer_that_came_while_others_had_the_processor_does_not_count():
    daemon = Daemon(after=WHOLE // 2)
    daemon.look = 2 * WHOLE
    assert daemon.ask() == 1
    assert daemon.ask() == 0


def test_with_one_processor_nobody_stays_awake_while_the_daemon_wants_it():
    daemon = Daemon(after=5 * LOOK, processors=1)
    assert [daemon.ask() for _ in range(3)] == [0, 0, 0]


def test_nobody_stays_awake_while_others_want_the_processor():
    daemon = Daemon(after=5 * LOOK)
    first = [daemon.ask() for _ in range(LOOK_EVERY - 1)]
    daemon.waited += 2 * CROWDED * daemon.now
    crowded = [daemon.ask() for _ in range(LOOK_EVERY)]
    daemon.now += 10**6
    assert set(first) == {5}
    assert set(crowded) == {0}
    assert daemon.ask() == 5


def test_nobody_stays_awake_while_more_threads_want_processors_than_there_are():
    daemon = Daemon(after=5 * LOOK)
    for _ in range(LOOK_EVERY - 1):
        daemon.ask()
    daemon.crowd = True
    assert {daemon.ask() for _ in range(LOOK_EVERY)} == {0}
    daemon.crowd = False
    assert daemon.ask() == 5


def test_where_nobody_knows_who_waits_for_a_processor_nobody_stays_awake_for_long():
    daemon = Daemon(after=5 * LOOK)
    daemon.waited = float("inf")
    asked = [daemon.ask() for _ in range(4 * LOOK_EVERY)]
    assert set(asked[LOOK_EVERY:]) == {0}


def test_a_thread_knows_how_long_it_has_waited_for_a_processor():
    assert 0 <= waited() <= waited() < 1e6


def test_each_thread_judges_for_itself():
    daemon = Daemon(after=10**7)
    assert daemon.ask() > 0
    assert daemon.ask() == 0
    with ThreadPoolExecutor(1) as other:
        assert other.submit(daemon.ask).result() > 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_vigil_is_interrupted_like_anything_else(error: type[BaseException]):
    def arrived() -> bool:
        raise error

    with pytest.raises(error):
        Vigil(processors=lambda: 2).keep(arrived)
