"""Ads of jobs as text, in both syntaxes, and what they come to in a match."""

from __future__ import annotations

import contextlib
import json

import pytest
from cached.errors import BadExpression, CachedError, UsageError
from cached.matching import jobads
from cached.matching.match import match
from hypothesis import given
from hypothesis import strategies as st

NODE = {
    "Name": "n",
    "Memory": 200,
    "Slow": {"expr": "TARGET.RequestMemory > 5"},
    "Requirements": {"expr": "false"},
}

NEW = '[Requirements = TARGET.Memory > MY.RequestMemory && !(TARGET.Slow); RequestMemory = 1; Cmd = "a; ]b"]'
OLD = '\nRequirements = TARGET.Memory > MY.RequestMemory && !(TARGET.Slow)\r\n# a comment\nRequestMemory=1\nCmd = "a; ]b"\n'


def agrees(text: str, **node) -> bool:
    return match(jobads.read(text).ad, {**NODE, **node}).set_side


@pytest.mark.parametrize("text", [NEW, OLD])
def test_both_syntaxes_say_the_same(text):
    job = jobads.read(text)
    assert job.ad == {
        "Requirements": {"expr": "TARGET.Memory > MY.RequestMemory && !(TARGET.Slow)"},
        "RequestMemory": 1,
        "Cmd": "a; ]b",
    }
    assert job.needed == {"requirements", "requestmemory"}
    assert json.loads(json.dumps(job.ad)) == job.ad


@pytest.mark.parametrize("text", [NEW, OLD])
def test_requirements_are_judged_with_the_attributes_of_both(text):
    assert agrees(text)
    assert not agrees(text, Memory=1)
    assert not agrees(text.replace("RequestMemory = 1", "RequestMemory = 7").replace("y=1", "y=7"))


@pytest.mark.parametrize(
    "text", ["", "[]", " [ ; ] ", "[RequestMemory = 1;]", "RequestMemory = 1", "# nothing\n"]
)
def test_a_job_without_requirements_matches_everything(text):
    assert agrees(text)


@pytest.mark.parametrize(
    ("value", "holds"),
    [
        ("true", True),
        ("1", True),
        ("1.5", True),
        ("false", False),
        ("undefined", False),
        ('"yes"', False),
        ("0", False),
    ],
)
def test_requirements_hold_when_they_are_true_or_a_number_but_zero(value, holds):
    assert agrees(f"[Requirements = {value}]") is holds
    assert agrees(f"requirements = {value}") is holds


def test_of_a_name_that_is_there_twice_the_last_counts():
    assert jobads.read("[A = 1; a = 2]").ad == {"a": 2, "Requirements": True}
    assert agrees("Requirements = false\nREQUIREMENTS = true")


@pytest.mark.parametrize(
    "attribute", ["Hold = time() > 5", "Nested = [a = 1]", 'Env = "' + "x" * 5000 + '"', "A" * 65 + " = 1"]
)
@pytest.mark.parametrize("form", ["[{}; A = 1]", "{}\nA = 1"])
def test_what_may_not_be_evaluated_is_left_out_when_nothing_depends_on_it(attribute, form):
    assert jobads.read(form.format(attribute)).ad == {"A": 1, "Requirements": True}


def test_expressions_that_turn_out_broken_can_be_taken_out():
    job = jobads.read("[Odd = 1 1; Requirements = B; B = TARGET.Memory > 1]")
    assert dict(jobads.texts(job)) == {"Odd": "1 1", "Requirements": "B", "B": "TARGET.Memory > 1"}
    assert "odd" not in job.needed
    assert match(jobads.without(job, ["Odd"]).ad, NODE).set_side


@pytest.mark.parametrize(
    "text",
    [
        "[Requirements = time() > 5]",
        '[Requirements = A; A = MY.B; B = regexp("a", "b")]',
        "Requirements = A\nA = [b = 1]",
        "Requirements = (",
        "Requirements =",
        "Requirements = " + "1 + " * 2000 + "1",
    ],
)
def test_requirements_that_depend_on_what_may_not_be_evaluated_are_refused(text):
    with pytest.raises(BadExpression):
        jobads.read(text)


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "[A = 1",
        "[A = 1] B",
        "[A]",
        "[1 = 2]",
        "[A = ]",
        "[A == 1]",
        "A",
        "A == 1",
        "1 = 2",
        "hello world",
        "[A = 1)",
    ],
)
def test_a_text_that_is_no_ad_is_refused(text):
    with pytest.raises(BadExpression):
        jobads.read(text)


def test_an_ad_has_the_limits_of_others():
    with pytest.raises(UsageError):
        jobads.read("\n".join(f"A{number} = 1" for number in range(300)))
    with pytest.raises(UsageError):
        jobads.read("\n".join(f'A{number} = "{"x" * 4000}"' for number in range(10)))
    with pytest.raises(UsageError):
        jobads.read("#" * (jobads.MAX_TEXT + 1))


@given(st.text(st.sampled_from("[]{}();=A1\"'\\ \n.&") | st.characters(), max_size=40))
def test_any_text_is_an_ad_or_a_refusal(text):
    with contextlib.suppress(CachedError):
        json.dumps(jobads.read(text).ad)
