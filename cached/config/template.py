"""Replacement in configuration values: one file serves all nodes, and several daemons of one host.

`{host}`, `{user}` and `{instance}`, `$NAME` and `${NAME}` of the environment, `$$` for a dollar sign, `~/` at
the start. Other braces stay: ClassAd lists have them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from cached.errors import UsageError

_PATTERN: Final = re.compile(
    r"\{(?P<word>host|user|instance)\}|\$(?:(?P<dollar>\$)|(?P<plain>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)\})",
    re.ASCII,
)


class Template:
    """What the words, the variables and the home directory stand for."""

    def __init__(self, words: Mapping[str, str], env: Mapping[str, str], home: str) -> None:
        self._words = words
        self._env = env
        self._home = home

    def expand(self, value: Any) -> Any:
        """Return the value with everything replaced, also in lists; `UsageError` for an unset variable."""
        if isinstance(value, list):
            return [self.expand(each) for each in value]
        if not isinstance(value, str):
            return value
        done = _PATTERN.sub(self._replace, value)
        return f"{self._home}{done[1:]}" if done.startswith("~/") else done

    def _replace(self, found: re.Match[str]) -> str:
        if found["dollar"]:
            return "$"
        if found["word"]:
            return self._words[found["word"]]
        name = found["plain"] or found["braced"]
        if name not in self._env:
            raise UsageError(f"the variable ${name} is not set", hint="set it, or write $$ for a dollar sign")
        return self._env[name]
