"""`cached exec`: run a command that finds sets as directories, without a copy.

This process keeps the descriptors and their pins while the command runs; `/proc/<its pid>/fd/N` is a path to
the set for every descendant of the same user, also for those that close their descriptors.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

import click
from cached.errors import NotFound

from cached_cli.child import CANNOT_RUN, CannotRunError, Relay, undisturbed
from cached_cli.command import CachedCommand, set_names
from cached_cli.keeper import Keeper
from cached_cli.links import linked
from cached_cli.output import warn
from cached_cli.progress import Meter
from cached_cli.provenance import Provenance
from cached_cli.session import Session, pass_session
from cached_cli.substitution import Wanted, check_distinct, environment, parse_all, spellings, substitute
from cached_cli.view import temporary_tree

_COMMAND: Final = "cached_cli.execute.command"


class ExecCommand(CachedCommand):
    """Takes everything after the first `--` as the command, untouched; its own failures are 125."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Split at the first `--`, then parse what stands before it."""
        ctx.ensure_object(Session).own_failure = CANNOT_RUN
        before, ctx.meta[_COMMAND] = args, []
        if "--" in args:
            cut = args.index("--")
            before, ctx.meta[_COMMAND] = args[:cut], args[cut + 1 :]
        rest = super().parse_args(ctx, before)
        if not ctx.meta[_COMMAND] and not ctx.resilient_parsing:
            raise click.UsageError("no command: write it after `--`, as in: cached exec nr -- ls {nr}", ctx)
        return rest

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show where the command goes."""
        formatter.write_usage(ctx.command_path, "[OPTIONS] NAME[=LINK]... -- COMMAND [ARGUMENT]...")


@click.command("exec", cls=ExecCommand)
@click.argument("names", metavar="NAME[=LINK]...", nargs=-1, required=True, shell_complete=set_names)
@click.option(
    "--view", is_flag=True, help="Give the command private copies, for programs that canonicalise paths."
)
@click.option(
    "--no-fetch", is_flag=True, help="End with 3 when this node has no replica, instead of fetching it."
)
@click.option(
    "--summary/--no-summary",
    default=True,
    help="End with a line on stderr: sizes, and from where they came (default: yes).",
)
@click.pass_context
@pass_session
def execute(
    session: Session,
    context: click.Context,
    names: tuple[str, ...],
    view: bool,
    no_fetch: bool,
    summary: bool,
) -> int:
    """Run a command that reads sets in place.

    For each set the command finds its path in CACHED_<NAME>, in its arguments where {NAME} stood, and as
    ./LINK (default: ./NAME) when the working directory is on a local filesystem. Other braces are left alone;
    {{NAME}} gives {NAME}. A set given as id:PREFIX goes by its real name. All are links to the set's directory:
    what follows none wants a slash behind it, as in find {NAME}/.

    \b
    The exit code is the command's. Own failures are 125, a command that is not found 127, one that
    cannot be executed 126; death by a signal is 128 plus its number.
    """
    wanted = parse_all(names)
    provenance = Provenance(session, wanted=summary)
    with undisturbed(), contextlib.ExitStack() as stack:
        if any(each.by_id for each in wanted):
            wanted = check_distinct(_named(session, each, fetch=not no_fetch) for each in wanted)
        paths = {}
        for each in wanted:
            provenance.before(each.ref)
            paths[each.name] = _place(session, stack, each, fetch=not no_fetch, view=view)
            provenance.after(each.ref)
        code = _run(session, context.meta[_COMMAND], wanted, paths)
        provenance.tell()
        return code
    raise AssertionError


def _named(session: Session, wanted: Wanted, *, fetch: bool) -> Wanted:
    """Give a set that was given by its id the name that it has."""
    try:
        return (
            wanted.called(session.client().show(wanted.ref.partition("/")[0]).name)
            if wanted.by_id
            else wanted
        )
    except NotFound as error:
        if not fetch:
            session.own_failure = error.exit_code
        raise


def _place(session: Session, stack: contextlib.ExitStack, wanted: Wanted, *, fetch: bool, view: bool) -> str:
    """Make one set reachable until the stack is unwound, fetching it first if need be; return its path."""
    client = session.client()
    try:
        with Meter(wanted.ref, session) as meter:
            if view:
                copy = stack.enter_context(temporary_tree()) / wanted.link
                client.export(wanted.ref, copy, fetch=fetch, view=True, progress=meter)
                return str(copy)
            opened = client.open_dir(wanted.ref, fetch=fetch, progress=meter)
    except NotFound as error:
        if not fetch:
            session.own_failure = error.exit_code
        raise
    stack.callback(opened.close)
    keeper = Keeper(session.client(), [opened.set_id])
    keeper.start()
    stack.callback(keeper.stop)
    os.set_inheritable(opened.fd, True)
    return f"/proc/{os.getpid()}/fd/{opened.fd}"


def _run(session: Session, command: list[str], wanted: list[Wanted], paths: dict[str, str]) -> int:
    links = {each.link: paths[each.name] for each in wanted}
    with Relay() as relay, linked(Path.cwd(), links, warn):
        try:
            return relay.run(
                substitute(command, spellings(wanted, paths)), environment(os.environ, wanted, paths)
            )
        except CannotRunError as error:
            session.own_failure = error.exit_status
            raise
