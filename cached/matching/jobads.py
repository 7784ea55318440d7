"""A job's ClassAd as text, in new or in old syntax, as an ad that the matchmaker takes.

New syntax is `[Requirements = TARGET.Memory > 100; RequestMemory = 1]`; old syntax, as in `condor_q -long`, has one
`Name = value` a line. Of a name that is there twice the last counts, as in HTCondor, and case does not matter.

Ads of real jobs are full of what nobody may evaluate here (time, nested ads) and what matching does not need. An
attribute that breaks the limits of `untrusted.check_ad` is left out, unless the requirements depend on it. A job
without requirements matches everything.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Final

import msgspec

from cached.errors import BadExpression, UsageError
from cached.matching import expressions
from cached.matching.ads import Ad, is_expr, literal
from cached.matching.untrusted import check_ad

#: The longest text of an ad, in bytes of UTF-8.
MAX_TEXT: Final = 64 * 1024

_LINE = re.compile(r"[ \t]*([A-Za-z_][A-Za-z0-9_]*)[ \t]*=(?![=?!])(.*)", re.ASCII)
_DEPTH = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}


class JobAd(msgspec.Struct, frozen=True):
    """An ad within the limits, and the folded names of the attributes that its requirements depend on."""

    ad: Ad
    needed: frozenset[str]


def read(text: str, allowed: Collection[str] = ()) -> JobAd:
    """Read an ad in either syntax. `allowed` is as for `expressions.check_text`.

    Raises `BadExpression` for requirements that cannot be used, and for a text that is no ad; `UsageError` for an ad
    that is too large.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_TEXT:
        raise UsageError(f"a job ad of {size} bytes is longer than the {MAX_TEXT} allowed")
    bare = text.removeprefix("\ufeff").strip()
    found = {
        name.lower(): (name, value) for name, value in (_new(bare) if bare.startswith("[") else _old(bare))
    }
    needed = _needed({folded: value for folded, (_, value) in found.items()})
    ad: Ad = {}
    for folded, (name, value) in found.items():
        try:
            expressions.check_text(value, allowed)
            ad |= check_ad({name: literal(value)}, allowed)
        except (BadExpression, UsageError) as error:
            if folded in needed:
                raise BadExpression(f"job ad, {name}: {error.message}", hint=error.hint) from error
    if "requirements" not in found:
        ad["Requirements"] = True
    return JobAd(check_ad(ad, allowed), needed)


def texts(job: JobAd) -> Iterator[tuple[str, str]]:
    """Iterate over the expressions of an ad, by the names of its attributes."""
    return ((name, value["expr"]) for name, value in job.ad.items() if is_expr(value))


def without(job: JobAd, names: Collection[str]) -> JobAd:
    """Return the ad without some attributes, which its requirements do not depend on."""
    return JobAd({name: value for name, value in job.ad.items() if name not in names}, job.needed)


def _new(text: str) -> Iterator[tuple[str, str]]:
    """Iterate over the attributes of an ad in brackets."""
    found = expressions.tokens(text)
    depth, begin = 0, 1
    for index, token in enumerate(found):
        if token.kind != "op":
            continue
        depth += _DEPTH.get(token.text, 0)
        if depth == 0 and token.text != "]":
            raise expressions.refuse(text, f"{token.text!r} at character {token.start + 1} closes nothing")
        if depth == 0 and index < len(found) - 1:
            raise expressions.refuse(
                text, f"there is more after the ad, from character {found[index + 1].start + 1} on"
            )
        if depth == 0 or (depth == 1 and token.text == ";"):
            if index > begin:
                yield _assignment(text, found[begin:index])
            begin = index + 1
    if depth:
        raise expressions.refuse(text, "a closing bracket is missing")


def _assignment(text: str, found: list[expressions.Token]) -> tuple[str, str]:
    name = found[0]
    if name.kind not in {"name", "quoted"} or len(found) < 3 or found[1].text != "=":
        raise expressions.refuse(text, f"`Name = value` should stand at character {name.start + 1}")
    bare = name.text[1:-1] if name.kind == "quoted" else name.text
    return bare, text[found[2].start : found[-1].end]


def _old(text: str) -> Iterator[tuple[str, str]]:
    """Iterate over the attributes of an ad with one a line; empty lines and those that begin with # do not count."""
    for line in text.split("\n"):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.fullmatch(line.rstrip())
        if found is None:
            raise expressions.refuse(
                line, "no `Name = value`", "a job ad has one a line, or is [Name = value; ...]"
            )
        yield found[1], found[2].strip()


def _needed(values: dict[str, str]) -> frozenset[str]:
    """Return the names that the requirements depend on, by way of others too."""
    needed, pending = set(), ["requirements"]
    while pending:
        name = pending.pop()
        if name in needed or name not in values:
            continue
        needed.add(name)
        try:
            named = expressions.references(values[name])
        except BadExpression:  # it is refused for that
            continue
        pending.extend(reference.name.lower() for reference in named if reference.scope != "target")
    return frozenset(needed)
