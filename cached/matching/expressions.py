"""ClassAd expressions as text: which are allowed, where their conjuncts end, and what they refer to.

Works on tokens alone and runs nothing: the evaluator (`cached.matching.engine`) meets only text that passed
`check_text`. What is refused, and why:

- more than 4 KiB, brackets deeper than 64, raw control characters, comments: no honest requirement needs
  them, and
  with them this reader and ClassAd's own parser could disagree about where a string ends;
- functions outside the list below: regular expressions and string rewriting can take for ever, `eval` would
  hide a
  call from this check, time and chance would make a remembered verdict wrong, `userHome` and the like read
  the machine;
- nested ads (`[ a = 1 ]`), which could define attributes inside an expression.

A site may allow more by name or pattern (`regexp*`; `[]` stands for nested ads).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Literal, NamedTuple

from cached.errors import BadExpression

#: The longest expression, in bytes of UTF-8.
MAX_EXPRESSION = 4096
MAX_DEPTH = 64

_FUNCTIONS = """
    isundefined iserror isstring isinteger isreal isboolean islist isclassad isabstime isreltime
    int real bool string floor ceiling ceil round pow quantize sum avg min max interval
    strcat substr strcmp stricmp toupper tolower size join split splitusername splitslotname
    member identicalmember anycompare allcompare ifthenelse
    stringlistsize stringlistsum stringlistavg stringlistmin stringlistmax stringlistmember stringlistimember
    stringlistsubsetmatch stringlistisubsetmatch stringlistsintersect
    versioncmp versiongt versionge versionlt versionle versioneq version_in_range
"""
#: Functions that any expression may call; names are case-blind.
FUNCTIONS = frozenset(_FUNCTIONS.split())

_REFUSED = """
    regexp regexps regexpmember stringlist_regexpmember replace replaceall eval unparse debug random
    time currenttime daytime abstime absolutetime reltime relativetime timezoneoffset formattime splittime
    getyear getmonth getdayofmonth getdayofweek getdayofyear getdays gethours getminutes getseconds
    userhome usermap countmatches evalineachcontext envv1tov2 mergeenvironment listtoargs argstolist
"""
_KNOWN_BUT_REFUSED = frozenset(_REFUSED.split())

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
      | (?P<comment>//|/\*)
      | (?P<string>"(?:[^"\\\x00-\x1f\x7f]|\\[^\x00-\x1f\x7f])*")
      | (?P<quoted>'(?:[^'\\\x00-\x1f\x7f]|\\[^\x00-\x1f\x7f])+')
      | (?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<op>=\?=|=!=|==|!=|<=|>=|&&|\|\||\?:|>>>|<<|>>|[-+*/%!~&|^<>?:,.()\[\]{}=;])""",
    re.VERBOSE,
)
_WORDS = frozenset({"true", "false", "undefined", "error", "is", "isnt", "parent"})
_OPENING = {"(": ")", "[": "]", "{": "}"}


class Token(NamedTuple):
    """One lexical element and where it lies in the text."""

    kind: Literal["string", "quoted", "number", "name", "op"]
    text: str
    start: int
    end: int

    def is_word(self, *words: str) -> bool:
        """Say whether this is one of the unquoted names `words`, whatever its case."""
        return self.kind == "name" and self.text.lower() in words


class Reference(NamedTuple):
    """An attribute that an expression names."""

    #: `my`, `target`, or empty for a name without a scope: own ad first, then the other.
    scope: Literal["my", "target", ""]
    name: str
    #: As written.
    text: str


def _excerpt(text: str, limit: int = 120) -> str:
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    return "`" + "".join(c if c.isprintable() else "�" for c in shown) + "`"


def refuse(text: str, why: str, hint: str = "") -> BadExpression:
    """Return the error that quotes `text` and says `why` it is no usable expression."""
    return BadExpression(f"expression {_excerpt(text)}: {why}", hint=hint, expression=text[:MAX_EXPRESSION])


def tokens(text: str) -> list[Token]:
    """Split `text` into tokens; raise `BadExpression` where none begins."""
    found: list[Token] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise refuse(text, _unreadable(text, position))
        kind = match.lastgroup
        if kind == "comment":
            raise refuse(text, "comments are not allowed")
        if kind != "space":
            found.append(Token(kind, match.group(), position, match.end()))  # type: ignore[arg-type]
        position = match.end()
    return found


def _unreadable(text: str, position: int) -> str:
    if text[position] in "\"'":
        return f"the quotation mark at character {position + 1} is never closed"
    return f"unexpected {text[position]!r} at character {position + 1}"


def check_text(text: str, allowed: Collection[str] = (), *, limit: int = MAX_EXPRESSION) -> list[Token]:
    """Check `text` against all rules but ClassAd's grammar and return its tokens; raise `BadExpression`.

    `allowed` holds functions or patterns that the site permits besides `FUNCTIONS`, and `[]` for nested ads.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > limit:
        raise refuse(text, f"{size} bytes are more than the {limit} allowed")
    found = tokens(text)
    if not found:
        raise refuse(text, "there is nothing to evaluate")
    _check_brackets(text, found, nested="[]" in allowed)
    for name in called(found):
        _check_function(text, name, allowed)
    return found


def _check_brackets(text: str, found: Sequence[Token], *, nested: bool) -> None:
    closing: list[str] = []
    for index, token in enumerate(found):
        if token.kind == "op" and token.text in _OPENING:
            if token.text == "[" and not nested and not _subscripts(found, index):
                raise refuse(text, "nested ads are not allowed")
            closing.append(_OPENING[token.text])
            if len(closing) > MAX_DEPTH:
                raise refuse(text, f"brackets are nested deeper than {MAX_DEPTH}")
        elif token.kind == "op":
            _check_closing(text, token, closing)
    if closing:
        raise refuse(text, f"a closing {closing[-1]!r} is missing")


def _check_closing(text: str, token: Token, closing: list[str]) -> None:
    if token.text in ")]}" and (not closing or closing.pop() != token.text):
        raise refuse(text, f"{token.text!r} at character {token.start + 1} closes nothing")
    if token.text in "=;" and "]" not in closing:
        hint = "write == to compare, =?= to compare without `undefined`" if token.text == "=" else ""
        raise refuse(text, f"{token.text!r} at character {token.start + 1} does not belong here", hint)


def _subscripts(found: Sequence[Token], index: int) -> bool:
    """Say whether the `[` at `index` selects from the value before it, rather than opening an ad."""
    if index == 0:
        return False
    before = found[index - 1]
    if before.kind == "name":
        return not before.is_word("is", "isnt")
    return before.kind == "quoted" or before.text in {")", "]", "}"}


def called(found: Sequence[Token]) -> Iterator[str]:
    """Iterate over the functions called, quoted names too: ClassAd calls `'regexp'(...)` just the same."""
    for token, following in pairwise(found):
        if following.text != "(" or following.kind != "op":
            continue
        if token.kind == "quoted":
            yield token.text[1:-1]
        elif token.kind == "name" and not token.is_word("is", "isnt"):
            yield token.text


def _check_function(text: str, name: str, allowed: Collection[str]) -> None:
    folded = name.lower()
    if folded in FUNCTIONS or any(fnmatchcase(folded, pattern.lower()) for pattern in allowed):
        return
    if folded in _KNOWN_BUT_REFUSED or "regexp" in folded:
        raise refuse(text, f"the function {name}() is not allowed")
    raise refuse(text, f"there is no function {name}()")


def conjuncts(text: str) -> list[str]:
    """Break `text` at its top-level `&&`, through brackets that enclose a whole conjunct.

    The text must have passed `check_text`. `||` and `?:` bind less tightly: such a text is one conjunct.
    """
    parts: list[str] = []
    pending = [text]
    while pending:
        part = pending.pop()
        found = tokens(part)
        inner = _without_brackets(found)
        if inner is not found:
            part = part[inner[0].start : inner[-1].end] if inner else part
            pending.append(part)
            continue
        pieces = _split(part, found)
        if len(pieces) == 1:
            parts.append(part.strip())
        else:
            pending.extend(reversed(pieces))
    return parts


def _without_brackets(found: list[Token]) -> list[Token]:
    if len(found) < 3 or found[0].text != "(":
        return found
    depth = 0
    for index, token in enumerate(found):
        depth += _step(token)
        if depth == 0:
            return found[1:-1] if index == len(found) - 1 else found
    return found


def _step(token: Token) -> int:
    if token.kind != "op":
        return 0
    return 1 if token.text in _OPENING else -1 if token.text in ")]}" else 0


def _split(part: str, found: Sequence[Token]) -> list[str]:
    depth, begin, pieces = 0, 0, []
    for token in found:
        depth += _step(token)
        if depth or token.kind != "op":
            continue
        if token.text in {"||", "?", "?:"}:
            return [part]
        if token.text == "&&":
            pieces.append(part[begin : token.start])
            begin = token.end
    return [*pieces, part[begin:]]


def references(text: str) -> list[Reference]:
    """Return the attributes that `text` names, each once, in order of appearance."""
    found = tokens(text)
    seen: dict[str, Reference] = {}
    for index, token in enumerate(found):
        reference = _reference(found, index, token)
        if reference is not None:
            seen.setdefault(f"{reference.scope}.{reference.name}".lower(), reference)
    return list(seen.values())


def _reference(found: Sequence[Token], index: int, token: Token) -> Reference | None:
    if token.kind not in {"name", "quoted"} or token.is_word(*_WORDS):
        return None
    if index + 1 < len(found) and found[index + 1].text == "(" and found[index + 1].kind == "op":
        return None
    name = token.text[1:-1] if token.kind == "quoted" else token.text
    selected = index > 0 and found[index - 1].text == "." and found[index - 1].kind == "op"
    if selected:
        scope = found[index - 2] if index > 1 else None
        nested = index > 2 and found[index - 3].text == "."
        if scope is None or nested or not scope.is_word("my", "target"):
            return None
        return Reference("my" if scope.is_word("my") else "target", name, f"{scope.text}.{token.text}")
    if token.is_word("my", "target") and index + 1 < len(found) and found[index + 1].text == ".":
        return None
    return Reference("", name, token.text)
