"""The home of a block lets one node at a time fetch it."""

from __future__ import annotations

from cached.objects.claims import EACH, LONGEST, PATIENCE, Answer, Claims
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

BLOCK = ("digest", 0)


def test_the_first_asker_fetches_and_the_others_wait_until_it_is_done():
    claims = Claims()
    assert claims.ask(BLOCK, "a", "1", 0.0) == Answer("fetch", "1", PATIENCE)
    assert claims.ask(BLOCK, "b", "2", 2.0) == Answer("wait", seconds=PATIENCE - 2.0)
    assert claims.ask(("digest", 1), "b", "3", 2.0).what == "fetch"
    assert claims.done("1", "a") == BLOCK
    assert claims.holder(BLOCK, 2.0) is None


def test_a_claim_that_is_not_renewed_goes_to_the_next_asker():
    claims = Claims()
    claims.ask(BLOCK, "a", "1", 0.0)
    assert claims.renew("1", "a", 4.0)
    assert claims.ask(BLOCK, "b", "2", 8.0).what == "wait"
    assert not claims.renew("1", "a", 9.0)
    assert claims.ask(BLOCK, "b", "2", 9.0).what == "fetch"
    assert claims.accepts("1", "a") is None
    assert claims.done("1", "a") is None
    assert claims.accepts("2", "b") == BLOCK


def test_late_bytes_are_taken_while_nobody_else_has_the_claim():
    claims = Claims()
    claims.ask(BLOCK, "a", "1", 0.0)
    assert claims.accepts("1", "a") == BLOCK
    assert claims.done("1", "a") == BLOCK
    assert claims.done("1", "a") is None


def test_nobody_renews_ends_or_uses_the_claim_of_another():
    claims = Claims()
    claims.ask(BLOCK, "a", "1", 0.0)
    assert not claims.renew("1", "b", 1.0)
    assert claims.accepts("1", "b") is None
    assert claims.done("1", "b") is None
    assert claims.failed("1", "b") is None
    assert claims.holder(BLOCK, 1.0) == "a"


def test_a_failure_frees_the_block_at_once():
    claims = Claims()
    claims.ask(BLOCK, "a", "1", 0.0)
    assert claims.failed("1", "a") == BLOCK
    assert claims.ask(BLOCK, "b", "2", 0.0).what == "fetch"


def test_a_holder_that_asks_again_goes_on_under_the_new_id():
    claims = Claims()
    claims.ask(BLOCK, "a", "1", 0.0)
    assert claims.ask(BLOCK, "a", "2", 1.0).what == "fetch"
    assert claims.accepts("1", "a") is None
    assert len(claims) == 1


def test_a_node_that_leaves_frees_all_its_blocks():
    claims = Claims()
    claims.ask(BLOCK, "a", "1", 0.0)
    claims.ask(("digest", 1), "b", "2", 0.0)
    assert claims.leave("a") == [BLOCK]
    assert claims.holder(("digest", 1), 0.0) == "b"


def test_a_home_with_too_many_claims_lets_askers_read_alone_until_some_end():
    claims = Claims(limit=1)
    claims.ask(BLOCK, "a", "1", 0.0)
    assert claims.ask(("digest", 1), "b", "2", 1.0) == Answer("alone")
    assert claims.ask(BLOCK, "b", "2", 1.0).what == "wait"
    assert claims.ask(("digest", 1), "b", "2", PATIENCE).what == "fetch"
    assert len(claims) == 1


def test_a_node_that_claims_everything_leaves_claims_for_the_others():
    claims = Claims()
    for index in range(2 * EACH):
        asked = claims.ask(("digest", index), "greedy", f"g{index}", 0.0)
        assert asked.what == ("fetch" if index < EACH else "alone")
    assert claims.ask(("other", 0), "honest", "h", 0.0).what == "fetch"
    assert claims.ask(("digest", 2 * EACH - 1), "honest", "h2", 0.0).what == "fetch"
    assert len(claims) == EACH + 2


def test_the_claims_of_a_node_that_ended_are_claims_that_it_may_have_again():
    claims = Claims(each=2)
    for number in "12":
        assert claims.ask(("digest", int(number)), "a", number, 0.0).what == "fetch"
    assert claims.ask(BLOCK, "a", "3", 1.0).what == "alone"
    assert claims.done("1", "a") is not None
    assert claims.ask(BLOCK, "a", "3", 1.0).what == "fetch"
    assert claims.ask(("digest", 4), "a", "4", PATIENCE).what == "fetch"


def test_no_claim_is_renewed_for_ever_and_who_held_it_in_vain_reads_alone():
    claims = Claims()
    now = 0.0
    claims.ask(BLOCK, "greedy", "g", now)
    while claims.renew("g", "greedy", now):
        assert claims.ask(BLOCK, "honest", "h", now).what == "wait"
        now += 1.0
    assert now == LONGEST
    assert claims.ask(BLOCK, "greedy", "g2", now).what == "alone"
    assert claims.ask(BLOCK, "honest", "h", now).what == "fetch"


def test_a_claim_under_a_new_id_ends_when_the_old_one_would_have():
    claims = Claims()
    now, serial = 0.0, 0
    while claims.ask(BLOCK, "greedy", str(serial), now).what == "fetch":
        now, serial = now + 1.0, serial + 1
    assert now == LONGEST
    assert claims.ask(BLOCK, "greedy", "x", LONGEST * 1.5).what == "alone"
    assert claims.ask(BLOCK, "greedy", "x", LONGEST * 2).what == "fetch"


def test_a_node_that_was_silent_for_a_while_is_given_a_block_again():
    claims = Claims()
    claims.ask(BLOCK, "a", "1", 0.0)
    assert claims.ask(BLOCK, "a", "2", 500.0).what == "fetch"
    assert claims.renew("2", "a", 504.0)


class ClaimsMachine(RuleBasedStateMachine):
    """Against a plain list of who holds what since when."""

    def __init__(self) -> None:
        super().__init__()
        self.claims = Claims(limit=3, each=2, longest=1e9)
        self.now = 0.0
        self.serial = 0
        self.model: dict[tuple[str, int], tuple[str, str, float]] = {}

    @rule(index=st.integers(0, 4), asker=st.sampled_from("abc"))
    def ask(self, index: int, asker: str) -> None:
        self.serial += 1
        block, claim = ("d", index), str(self.serial)
        held = self.model.get(block)
        answer = self.claims.ask(block, asker, claim, self.now)
        if held and held[1] != asker and held[2] > self.now:
            assert answer == Answer("wait", seconds=held[2] - self.now)
        elif answer.what == "fetch":
            self.model[block] = (claim, asker, self.now + PATIENCE)
        else:
            assert answer.what == "alone"
            going = [one for one in self.model.values() if one[2] > self.now]
            assert len(going) >= 3 or sum(one[1] == asker for one in going) >= 2

    @rule(step=st.floats(0.1, 6.0))
    def wait(self, step: float) -> None:
        self.now += step

    @rule(serial=st.integers(0, 30), holder=st.sampled_from("abc"))
    def renew(self, serial: int, holder: str) -> None:
        good = self.claims.renew(str(serial), holder, self.now)
        for block, (claim, who, ends) in self.model.items():
            if (claim, who) == (str(serial), holder):
                assert good == (ends > self.now)
                if good:
                    self.model[block] = (claim, who, self.now + PATIENCE)
                return
        assert not good

    @rule(serial=st.integers(0, 30), holder=st.sampled_from("abc"), well=st.booleans())
    def finish(self, serial: int, holder: str, well: bool) -> None:
        block = (self.claims.done if well else self.claims.failed)(str(serial), holder)
        if block is not None:
            assert self.model.pop(block)[:2] == (str(serial), holder)

    @rule()
    def expire(self) -> None:
        for block in self.claims.expire(self.now):
            assert self.model.pop(block)[2] <= self.now

    @invariant()
    def never_two_holders_and_never_too_many(self) -> None:
        assert len(self.claims) <= 3
        for index in range(5):
            held = self.model.get(("d", index))
            holder = held[1] if held and held[2] > self.now else None
            assert self.claims.holder(("d", index), self.now) == holder


TestClaimsMachine = ClaimsMachine.TestCase
TestClaimsMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
