"""Ads as the ClassAd library holds them: parsed once, used for many matches."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal, NamedTuple

from cached.matching import engine, expressions
from cached.matching.ads import is_expr

Side = Literal["set", "node"]


def parse(text: str) -> Any:
    """Return the library's tree of an expression; raises `BadExpression` that quotes it."""
    try:
        return engine.ExprTree(text)
    except engine.ClassAdException:
        why = "this is not a ClassAd expression"
        raise expressions.refuse(text, why, "for example: TARGET.Memory >= 8192") from None


class Named(NamedTuple):
    """An attribute that a condition names, ready to be evaluated."""

    reference: expressions.Reference
    tree: Any


class Condition(NamedTuple):
    """One conjunct of the requirements."""

    text: str
    tree: Any
    named: tuple[Named, ...]

    @property
    def is_bare(self) -> bool:
        """Say whether the condition is nothing but one attribute."""
        return len(self.named) == 1 and self.named[0].reference.text == self.text


class Parsed:
    """An ad that passed `untrusted.check_ad`; raises `BadExpression` for what ClassAd cannot parse."""

    def __init__(self, ad: Mapping[str, Any]) -> None:
        #: Folded names of all attributes.
        self.names = frozenset(name.lower() for name in ad)
        #: Text of the requirements; empty when there are none or they are a literal.
        self.text = ""
        values = dict(ad)
        for name, value in ad.items():
            if is_expr(value):
                values[name] = parse(value["expr"])
                if name.lower() == "requirements":
                    self.text = value["expr"]
        self.ad = engine.ClassAd(values)
        present = "requirements" in self.names
        self.requirements = self.ad.lookup("Requirements") if present else parse("undefined")

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        """The conjuncts of the requirements."""
        return tuple(_condition(text) for text in expressions.conjuncts(self.text)) if self.text else ()

    def label(self, side: Side) -> str:
        """Name the ad for people, as one of `side`."""
        name = self.ad.get("Name" if side == "node" else "CacheName")
        if not isinstance(name, str):
            return f"the {side}"
        return f"{side} " + "".join(character for character in name[:80] if character.isprintable())


def _condition(text: str) -> Condition:
    named = tuple(Named(reference, parse(reference.text)) for reference in expressions.references(text))
    return Condition(text, parse(text), named)
