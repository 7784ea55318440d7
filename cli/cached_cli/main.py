"""The `cached` command: the list of commands, and the one place where failures become words and exit codes.

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 not allowed, 5 refused, 6 daemon unreachable,
7 integrity; 130 when interrupted. `exec` passes its command's code through; its own failures are 125.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Final, NoReturn

import click
from cached.errors import CachedError, UsageError

from cached_cli.command import CachedGroup
from cached_cli.output import report, talk
from cached_cli.session import Session

_INTERRUPTED: Final = 130
#: What a shell reports of a program that wrote to a closed pipe: 128 + SIGPIPE.
_CLOSED_PIPE: Final = 141

_COMMANDS: Final = {
    "create": "cached_cli.create:create",
    "list": "cached_cli.listing:list_sets",
    "show": "cached_cli.listing:show",
    "files": "cached_cli.listing:files",
    "match": "cached_cli.placing:match",
    "locate": "cached_cli.placing:locate",
    "exec": "cached_cli.execute:execute",
    "path": "cached_cli.path:path",
    "get": "cached_cli.read:get",
    "cat": "cached_cli.read:cat",
    "put": "cached_cli.objects:put",
    "localize": "cached_cli.localize:localize",
    "clear": "cached_cli.objects:clear",
    "scope": "cached_cli.objects:scope",
    "update": "cached_cli.change:update",
    "extend": "cached_cli.change:extend",
    "delete": "cached_cli.change:delete",
    "replicate": "cached_cli.replicate:replicate",
    "verify": "cached_cli.verify:verify",
    "nodes": "cached_cli.state:nodes",
    "status": "cached_cli.state:status",
    "limits": "cached_cli.limits:limits",
    "usage": "cached_cli.usage:usage",
    "daemon": "cached_cli.node:daemon",
    "cluster": "cached_cli.node:cluster",
    "config": "cached_cli.node:config",
}


class Root(CachedGroup):
    """The outermost group: turns every failure into one message and one exit code."""

    def main(self, *args: Any, **settings: Any) -> NoReturn:
        """Run one invocation and exit with its code."""
        given = args[0] if args else settings.pop("args", None)
        arguments = list(sys.argv[1:] if given is None else given)
        session = Session()
        settings.update(prog_name="cached", standalone_mode=False, obj=session)
        try:
            code = super().main(arguments, **settings)
        except click.Abort:
            code = _INTERRUPTED
        except click.exceptions.NoArgsIsHelpError as problem:
            click.echo(problem.ctx.get_help() if problem.ctx else problem.format_message(), err=True)
            code = UsageError.exit_code
        except click.ClickException as problem:
            before_command = arguments[: arguments.index("--")] if "--" in arguments else arguments
            code = _fail(session, _usage(problem), as_json="--json" in before_command)
        except CachedError as problem:
            code = _fail(session, problem, as_json=session.json)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand; interruptions and closed pipes end quietly, a refusing filesystem in words."""
        try:
            outcome = super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt:
            talk("cached: interrupted")
            return _INTERRUPTED
        except BrokenPipeError:
            _forget_stdout()
            return _CLOSED_PIPE
        except OSError as problem:
            try:
                sys.stdout.flush()
            except OSError:
                _forget_stdout()
            where = f"{problem.filename}: " if problem.filename else ""
            raise CachedError(f"{where}{problem.strerror or problem}") from problem
        return outcome


def _fail(session: Session, error: CachedError, *, as_json: bool) -> int:
    report(error, as_json=as_json)
    return error.exit_code if session.own_failure is None else session.own_failure


def _usage(problem: click.ClickException) -> UsageError:
    context = getattr(problem, "ctx", None)
    hint = f"see {context.command_path} --help" if context else "see cached --help"
    return UsageError(problem.format_message(), hint=hint)


def _open_standard_streams() -> None:
    """Give what the caller has closed a descriptor that only fails, so that no file or socket is mistaken for it."""
    for number, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # the lowest number that is free is this one
    missing: Any = None
    if sys.stdout is missing:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is missing:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def _forget_stdout() -> None:
    """Point stdout at nothing, so that what is still buffered does not fail once more at exit."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)


@click.group(
    cls=Root,
    lazy=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 not allowed, 5 refused, "
    "6 daemon unreachable, 7 integrity.",
)
@click.version_option(package_name="cachesets", message="%(prog)s %(version)s")
def cached() -> None:
    """Keep committed sets of files on the nodes that need them.

    A set is committed once (create), copied to every node whose policy and the set's requirements agree, and
    read in place (exec, path). A lease says until when a node keeps its copy.

    A set is named [OWNER:]NAME[@NODE][/PATH], or id:PREFIX with 8 or more digits of its id. An object of Cloud
    Storage is gs://BUCKET/OBJECT, or gs://BUCKET/OBJECT#GENERATION.

    \b
    Completion:  eval "$(_CACHED_COMPLETE=bash_source cached)"      (or zsh_source, fish_source)
    """


def main() -> NoReturn:
    """Run the `cached` command."""
    _open_standard_streams()
    cached.main()
