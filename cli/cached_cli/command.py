"""The shape of every command: global options before or after the subcommand, lazy loading, parameter types.

Completion is click's own; names of sets are completed by asking the daemon, briefly.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import click
from cached.errors import CachedError
from cached.units import parse_duration, parse_rate
from click.shell_completion import CompletionItem

from cached_cli.session import Session

#: `--replicas all`: a copy on every node that matches.
ALL: Final = -1
_METHODS: Final = ("bittorrent", "direct")
#: How long completion waits for the daemon, in seconds.
_COMPLETION_PATIENCE: Final = 1.0

Remember = Callable[[click.Context, click.Parameter, Any], None]


def _remember(field: str) -> Remember:
    def store(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
        if value is not None:
            setattr(context.ensure_object(Session), field, value)

    return store


def global_options() -> list[click.Parameter]:
    """Return fresh copies of the options that every command takes."""

    def option(*names: str, field: str, **settings: Any) -> click.Option:
        return click.Option(names, expose_value=False, callback=_remember(field), default=None, **settings)

    return [
        option(
            "--json", field="json", flag_value=True, is_flag=True, help="Print JSON; errors too, on stderr."
        ),
        option(
            "--runtime-dir",
            field="runtime_dir",
            metavar="DIR",
            type=click.Path(path_type=Path, file_okay=False),
            help="Directory of the daemon's sockets (default: $CACHED_RUNTIME_DIR, then the usual places).",
        ),
        option("--instance", field="instance", metavar="I", help="Which of several daemons on this host."),
        option(
            "--no-color", field="color", flag_value=False, is_flag=True, help="No colour, as with NO_COLOR."
        ),
    ]


class CachedCommand(click.Command):
    """A command that takes the global options too."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.params.extend(global_options())


class CachedGroup(click.Group):
    """A group that takes the global options, and loads each subcommand's module only when it is wanted."""

    command_class = CachedCommand

    def __init__(self, *args: Any, lazy: Mapping[str, str] | None = None, **settings: Any) -> None:
        """`lazy` maps a command's name to `module:attribute`, in the order in which help lists them."""
        super().__init__(*args, **settings)
        self.params.extend(global_options())
        self._lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which they were declared."""
        return [*self._lazy, *(name for name in self.commands if name not in self._lazy)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name, importing its module if need be."""
        if cmd_name in self._lazy:
            module, _, attribute = self._lazy[cmd_name].partition(":")
            found = getattr(importlib.import_module(module), attribute)
            assert isinstance(found, click.Command)
            return found
        return super().get_command(ctx, cmd_name)


class Duration(click.ParamType[int]):
    """`90s 30m 12h 7d`, as whole seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the seconds; a broken duration is a usage error."""
        try:
            return parse_duration(value)
        except CachedError as error:
            self.fail(f"{error.message}: {error.hint}" if error.hint else error.message, param, ctx)


class Rate(click.ParamType[int]):
    """`10MB/s` or `80Mbit/s`, as whole bytes per second; `none` for no limit is 0."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the rate; a broken one is a usage error."""
        if isinstance(value, str) and value.lower() == "none":
            return 0
        try:
            read = parse_rate(value)
        except CachedError as error:
            self.fail(f"{error.message}: {error.hint}" if error.hint else error.message, param, ctx)
        if not read:
            self.fail("0 would stop everything: say 'none' for no limit", param, ctx)
        return read


class Replicas(click.ParamType[int]):
    """`all`, or how many copies besides the originator's."""

    name = "N|all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number; `all` is `ALL`."""
        if isinstance(value, int) or value.lower() == "all":
            return value if isinstance(value, int) else ALL
        if not (value.isascii() and value.isdigit()):
            self.fail(f"{value!r} is neither a number nor 'all'", param, ctx)
        return int(value)


class Methods(click.ParamType[tuple[str, ...]]):
    """`bittorrent,direct`, in any selection."""

    name = "methods"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Return the methods named, each once."""
        chosen = value if isinstance(value, tuple) else tuple(part.strip() for part in value.split(","))
        for method in chosen:
            if method not in _METHODS:
                self.fail(f"{method!r} is not a method; choose from {', '.join(_METHODS)}", param, ctx)
        return tuple(dict.fromkeys(chosen))


class Share(click.ParamType[str]):
    """`private`, `public` or `group:NAME`."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the value when it is one of the three."""
        text = str(value)
        if not re.fullmatch(r"private|public|group:.+", text):
            self.fail(f"{text!r} is not private, public or group:NAME", param, ctx)
        return text


def set_names(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a set by asking the daemon; nothing when it does not answer at once."""
    from cached_cli.output import items

    session = context.find_object(Session) or Session()
    with contextlib.suppress(CachedError, OSError, ImportError):
        known = items(session.client(timeout=_COMPLETION_PATIENCE).list())
        return [CompletionItem(entry["name"]) for entry in known if str(entry["name"]).startswith(incomplete)]
    return []


set_argument = click.argument("name", metavar="NAME", shell_complete=set_names)
