"""Rules of `cached exec`: what `NAME[=LINK]` stands for, its variables, and how `{NAME}` is replaced. No I/O.

`{NAME}` is replaced in every argument, for the names given and nothing else: other braces stay as they are. A
doubled pair, `{{NAME}}`, gives a literal `{NAME}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

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
    #: Whether the link was said: then it stays, whatever the set turns out to be called.
    link_said: bool = True

    @property
    def by_id(self) -> bool:
        """Whether only the id of the set is known, until `called` gives it a name."""
        return self.name.startswith("id:")

    def called(self, name: str) -> Wanted:
        """Return it under the real name of the set."""
        return replace(self, name=name, link=self.link if self.link_said else name)

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
    return Wanted(ref=ref, name=name, link=chosen, link_said=bool(equals or path))


def parse_all(texts: Iterable[str]) -> list[Wanted]:
    """Read every `NAME[=LINK]`; raises `UsageError`, as `check_distinct` does."""
    return check_distinct(parse_wanted(text) for text in texts)


def check_distinct(all_wanted: Iterable[Wanted]) -> list[Wanted]:
    """Return them as a list; two that would share a variable or a link are a `UsageError`."""
    found = list(all_wanted)
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


def spellings(wanted: Iterable[Wanted], paths: Mapping[str, str]) -> dict[str, str]:
    """Return the paths by everything that may stand in braces: the names, and `id:PREFIX` as it was given."""
    as_given = {each.ref.partition("/")[0].partition("@")[0]: paths[each.name] for each in wanted}
    return {**{ref: path for ref, path in as_given.items() if ref.startswith("id:")}, **paths}


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
