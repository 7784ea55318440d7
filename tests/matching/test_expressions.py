"""Reading ClassAd expressions as text."""

from __future__ import annotations

import pytest
from cached.errors import BadExpression
from cached.matching import engine
from cached.matching.expressions import check_text, conjuncts, references
from cached.matching.match import check_expression
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    "text",
    [
        'regexp("a", TARGET.Name)',
        "'regexp'(\"a\", TARGET.Name)",
        'ReGexps("a", "b", "c")',
        'stringList_regexpMember("a", "b")',
        "random() < 0.5",
        "time() > 1",
        'userHome("root") == "/root"',
        'eval("regexp(1,2)")',
        "[ a = 1 ].a",
        "{ [ a = 1 ] }",
        "x is [ a = 1 ]",
        "madeUp(1)",
        "true; Evil = 1",
        "a = 1",
        "true) || (true",
        "a /* c */ && b",
        "a // c",
        '"open',
        "",
        " \n",
        "(" * 65 + "1" + ")" * 65,
        "1 @ 2",
        "\x00",
        "x" * 4097,
        '"' + "é" * 2048 + '"',
        "(a]",
    ],
)
def test_what_is_not_allowed_is_refused_and_quoted(text):
    with pytest.raises(BadExpression) as caught:
        check_expression(text)
    assert "`" in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        "TARGET.Memory >= 8192",
        'stringListIMember("a", "b,c") || member("x", {"x", "y"})[0] is undefined',
        "ifThenElse(isUndefined(TARGET.HasGPU), false, TARGET.HasGPU)",
        "x[0].y is (1 + 2)",
        '"a\\"b && c // d" =?= TARGET.\'odd name\'',
        "\n a\t&& b ",
        'versionGE(TARGET.Version, "1.2") ?: false',
    ],
)
def test_ordinary_expressions_pass(text):
    check_expression(text)


def test_a_site_may_allow_functions_and_nested_ads():
    check_expression('regexp("a", TARGET.Name)', ("regexp*",))
    check_expression("[ a = 1; b = 2 ].a == 1", ("[]",))
    with pytest.raises(BadExpression):
        check_expression('regexp("a", TARGET.Name)', ("random",))


def test_a_single_equals_sign_is_explained():
    with pytest.raises(BadExpression) as caught:
        check_text("TARGET.Arch = 3")
    assert "==" in caught.value.hint


def test_conjuncts_are_found_through_brackets_and_not_inside_other_operators():
    assert conjuncts("(a && (b && c)) && d") == ["a", "b", "c", "d"]
    assert conjuncts("(a || b) && f(c && d)") == ["a || b", "f(c && d)"]
    assert conjuncts("a && b || c") == ["a && b || c"]
    assert conjuncts("(a) && (b)") == ["a", "b"]
    assert conjuncts('x == "a && b"') == ['x == "a && b"']
    assert conjuncts("a ? b && c : d") == ["a ? b && c : d"]
    assert conjuncts("((a))") == ["a"]


def test_references_know_their_scope_and_leave_functions_and_words_out():
    found = references("my.A == TARGET.'B c' && size(D) > 1 && TRUE && x.y is undefined && target.a")
    assert [(reference.scope, reference.name) for reference in found] == [
        ("my", "A"),
        ("target", "B c"),
        ("", "D"),
        ("", "x"),
        ("target", "a"),
    ]


_atoms = st.sampled_from(
    ["a", "TARGET.b", "1", "2.5", "true", "undefined", '"x && y"', "size({1, 2})", "my.c"]
)
_trees = st.recursive(
    _atoms,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["&&", "||", "<", "==", "=?=", "+"]), inner).map(
            lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"
        ),
        st.tuples(inner, inner).map(" && ".join),
        inner.map(lambda text: f"!{text}"),
    ),
    max_leaves=8,
)


@given(_trees)
def test_an_expression_holds_exactly_when_its_conjuncts_do(text):
    check_expression(text)
    own, other = engine.ClassAd({"a": True, "c": 3}), engine.ClassAd({"b": 0})
    whole = engine.evaluate(engine.ExprTree(text), own, other)
    parts = [engine.evaluate(engine.ExprTree(part), own, other) for part in conjuncts(text)]
    if all(type(part) is bool for part in parts):
        assert engine.holds(whole) == all(engine.holds(part) for part in parts)


@given(st.text(alphabet="ab &|\"'\\()[]{}/*=;!?:.,1é\n\t", max_size=24))
def test_text_that_passes_cannot_leave_its_brackets_or_end_its_attribute(text):
    try:
        check_text(text)
        tree = engine.ExprTree(text)
    except (BadExpression, engine.ClassAdException):
        return
    ad = engine.ClassAd(f"[ First = ({text}); Second = 2 ]")
    assert sorted(ad.keys()) == ["First", "Second"]
    alone, within = (engine.evaluate(each, engine.ClassAd(), ad) for each in (tree, ad.lookup("First")))
    assert repr(alone) == repr(within)
