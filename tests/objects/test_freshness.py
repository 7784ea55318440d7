"""For how long a user who was let in is not asked about again."""

from __future__ import annotations

from cached.objects.freshness import Freshness
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule


def test_without_a_window_nothing_is_remembered():
    fresh = Freshness(0)
    fresh.remember("ada", "b", "o", 1, asked=0.0)
    assert fresh.allowed("ada", "b", "o", 0.0) is None
    assert len(fresh) == 0


def test_within_the_window_the_same_user_is_let_in_again_and_nobody_else():
    fresh = Freshness(10)
    fresh.remember("ada", "b", "o", 7, asked=100.0)
    assert fresh.allowed("ada", "b", "o", 109.9) == 7
    assert fresh.allowed("bob", "b", "o", 101.0) is None
    assert fresh.allowed("ada", "b", "p", 101.0) is None
    assert fresh.allowed("ada", "c", "o", 101.0) is None
    assert fresh.allowed("ada", "b", "o", 110.0) is None


def test_an_answer_is_as_old_as_its_question():
    fresh = Freshness(10)
    fresh.remember("ada", "b", "o", 7, asked=0.0)
    assert fresh.allowed("ada", "b", "o", 9.0) == 7
    fresh.remember("ada", "b", "o", 7, asked=1.0)
    assert fresh.allowed("ada", "b", "o", 10.5) == 7
    assert fresh.allowed("ada", "b", "o", 11.0) is None


def test_a_question_about_an_old_generation_says_nothing_about_the_current_one():
    fresh = Freshness(10)
    fresh.remember("ada", "b", "o", 3, asked=0.0, current=False)
    assert fresh.allowed("ada", "b", "o", 1.0) is None
    assert fresh.allowed("ada", "b", "o", 1.0, generation=3) == 3
    assert fresh.allowed("ada", "b", "o", 1.0, generation=4) is None
    fresh.remember("ada", "b", "o", 4, asked=0.0)
    assert fresh.allowed("ada", "b", "o", 1.0) == 4
    assert fresh.allowed("ada", "b", "o", 1.0, generation=4) == 4


def test_a_write_forgets_what_everybody_was_allowed_also_what_was_asked_before_it_and_is_answered_after():
    fresh = Freshness(10)
    fresh.remember("ada", "b", "o", 1, asked=0.0)
    fresh.remember("bob", "b", "o", 1, asked=0.0)
    fresh.remember("bob", "b", "other", 5, asked=0.0)
    fresh.forget("b", "o", 2.0)
    assert fresh.allowed("ada", "b", "o", 2.0) is None
    assert fresh.allowed("bob", "b", "o", 2.0) is None
    assert fresh.allowed("bob", "b", "other", 2.0) == 5
    fresh.remember("ada", "b", "o", 1, asked=1.9)
    assert fresh.allowed("ada", "b", "o", 2.0) is None
    fresh.remember("ada", "b", "o", 2, asked=2.1)
    assert fresh.allowed("ada", "b", "o", 2.2) == 2


def test_clearing_takes_one_user_or_one_prefix_or_all():
    fresh = Freshness(10)
    for user in ("ada", "bob"):
        for name in ("x/1", "y/1"):
            fresh.remember(user, "b", name, 1, asked=0.0)
    fresh.clear(1.0, user="ada", bucket="b", prefix="x/")
    assert fresh.allowed("ada", "b", "x/1", 1.0) is None
    assert fresh.allowed("ada", "b", "y/1", 1.0) == 1
    assert fresh.allowed("bob", "b", "x/1", 1.0) == 1
    fresh.remember("ada", "b", "x/1", 1, asked=0.5)
    assert fresh.allowed("ada", "b", "x/1", 1.0) is None
    fresh.clear(2.0)
    assert len(fresh) == 0


def test_memory_is_bounded_and_what_must_not_be_remembered_is_never_lost_with_it():
    fresh = Freshness(10, limit=4)
    for number in range(20):
        fresh.remember("ada", "b", f"o{number}", 1, asked=0.0)
    assert len(fresh) == 4
    for number in range(20):
        fresh.forget("b", f"o{number}", 1.0)
        fresh.remember("ada", "b", f"o{number}", 1, asked=0.9)
        assert fresh.allowed("ada", "b", f"o{number}", 1.0) is None
    fresh.remember("ada", "b", "o0", 1, asked=0.9)
    assert fresh.allowed("ada", "b", "o0", 1.0) is None


class NeverStale(RuleBasedStateMachine):
    """An object that is overwritten here: no answer after an overwrite is older than it, or than the window."""

    def __init__(self) -> None:
        super().__init__()
        self.fresh = Freshness(5, limit=3)
        self.now = 0.0
        self.versions = {"o": [(0.0, 1)], "p": [(0.0, 1)]}
        self.questions: list[tuple[str, str, int, float]] = []

    @rule(name=st.sampled_from("op"), user=st.sampled_from("ab"))
    def ask(self, name: str, user: str) -> None:
        self.questions.append((user, name, self.versions[name][-1][1], self.now))

    @rule(which=st.integers(0, 5))
    def answer(self, which: int) -> None:
        if which < len(self.questions):
            user, name, generation, asked = self.questions.pop(which)
            self.fresh.remember(user, "b", name, generation, asked)

    @rule(name=st.sampled_from("op"))
    def write(self, name: str) -> None:
        self.versions[name].append((self.now, self.versions[name][-1][1] + 1))
        self.fresh.forget("b", name, self.now)

    @rule(step=st.floats(0.1, 3))
    def wait(self, step: float) -> None:
        self.now += step

    @rule(name=st.sampled_from("op"), user=st.sampled_from("abc"))
    def read(self, name: str, user: str) -> None:
        found = self.fresh.allowed(user, "b", name, self.now)
        assert found in (None, self.versions[name][-1][1])
        assert user != "c" or found is None


TestNeverStale = NeverStale.TestCase
TestNeverStale.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
