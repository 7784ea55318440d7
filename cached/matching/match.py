"""Matching a set's ad with a node's, both ways, by HTCondor's own ClassAd engine.

Semantics are HTCondor's: `Requirements` must come to true or a number but zero; undefined, error, a string or
no `Requirements` at all do not match; a name without scope is looked up in the own ad, then in the other.

Evaluation knows no time limit: outside of tests, a process that can be killed runs it (`cached.matchmaker`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from cached.matching import engine, explain, expressions
from cached.matching.parsed import Parsed, Side, parse
from cached.matching.untrusted import check_ad
from cached.matching.verdict import AGREED, Verdict


def check_expression(text: str, allowed: Collection[str] = ()) -> None:
    """Raise `BadExpression`, quoting it, unless `text` may be used as requirements or as an attribute.

    `allowed` holds functions, patterns and `[]`, as for `expressions.check_text`.
    """
    expressions.check_text(text, allowed)
    parse(text)


def match(set_ad: Mapping[str, Any], node_ad: Mapping[str, Any], allowed: Collection[str] = ()) -> Verdict:
    """Match two ads, or say why they do not; raises `UsageError` or `BadExpression` for a malformed ad."""
    return match_parsed(Parsed(check_ad(set_ad, allowed)), Parsed(check_ad(node_ad, allowed)))


def match_parsed(
    cache_set: Parsed, node: Parsed, entering: Callable[[Side], None] = lambda side: None
) -> Verdict:
    """Match two parsed ads; `entering` is told whose requirements are about to be evaluated."""
    entering("set")
    wanted = engine.evaluate(cache_set.requirements, cache_set.ad, node.ad)
    set_side = engine.holds(wanted)
    reasons = [] if set_side else explain.refusal("set", cache_set, node, wanted)
    entering("node")
    offered = engine.evaluate(node.requirements, node.ad, cache_set.ad)
    node_side = engine.holds(offered)
    if set_side and node_side:
        return AGREED
    if not node_side:
        reasons += explain.refusal("node", node, cache_set, offered)
    return Verdict(False, set_side, node_side, tuple(reasons))
