"""Rules of `cached exec`: what `NAME[=LINK]` stands for, its variables, and how `{NAME}` is replaced. No I/O.

`{NAME}` is replaced in every argument, for the names given and nothing else: other braces stay as they are. A
doubled pair, `{{NAME}}`, gives a literal `{NAME}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cached.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One set that a command is to find."""

    #: What the daemon is asked for: `[OWNER:]NAME[@NODE][/PATH]` or `id:PREFIX`.
    ref: str
    #: The bare name, which `{NAME}` and `CACHED_<NAME>` are made of.
    name: str
    #: File name of the symbolic link in the working directory.
    link: str

    @property
    def variable(self) -> str:
        """Environment variable that holds the path."""
        return "CACHED_" + re.sub(r"[^A-Z0-9]", "_", self.name.upper(), flags=re.ASCII)


def parse_wanted(text: str) -> Wanted:
    """Read `NAME[=LINK]`; raises `UsageError`."""
    ref, equals, link = text.partition("=")
    whole, _, path = ref.partition("/")
    owned = whole if whole.startswith("id:") else whole.rpartition(":")[2]
    name = owned.partition("@")[0]
    if not name:
        raise UsageError(f"{text!r} names no set", hint="write NAME or NAME=LINK")
    default = path.rstrip("/").rpartition("/")[2] or name.removeprefix("id:")
    chosen = link if equals else default
    if chosen in ("", ".", "..") or "/" in chosen or not chosen.isprintable():
        raise UsageError(
            f"{chosen!r} in {text!r} cannot be the name of a link", hint="LINK is one file name, without '/'"
        )
    return Wanted(ref=ref, name=name, link=chosen)


def parse_all(texts: Iterable[str]) -> list[Wanted]:
    """Read every `NAME[=LINK]`; two that would share a variable or a link are a `UsageError`."""
    found = [parse_wanted(text) for text in texts]
    for what in ("variable", "link"):
        taken: dict[str, Wanted] = {}
        for wanted in found:
            other = taken.setdefault(getattr(wanted, what), wanted)
            if other is not wanted:
                raise UsageError(
                    f"{other.ref} and {wanted.ref} would share the {what} {getattr(wanted, what)}",
                    hint="put one cached exec inside the other" if what == "variable" else "write NAME=LINK",
                )
    return found


def substitute(arguments: Sequence[str], paths: Mapping[str, str]) -> list[str]:
    """Return the arguments with `{NAME}` replaced by its path, and `{{NAME}}` by `{NAME}`."""
    if not paths:
        return list(arguments)
    names = "|".join(re.escape(name) for name in sorted(paths, key=len, reverse=True))
    pattern = re.compile(rf"\{{\{{({names})\}}\}}|\{{({names})\}}")

    def value(found: re.Match[str]) -> str:
        return f"{{{found[1]}}}" if found[1] else paths[found[2]]

    return [pattern.sub(value, argument) for argument in arguments]


def environment(
    base: Mapping[str, str], wanted: Iterable[Wanted], paths: Mapping[str, str]
) -> dict[str, str]:
    """Return `base` with one `CACHED_<NAME>` for each set, by the paths of its names."""
    return {**base, **{each.variable: paths[each.name] for each in wanted}}
