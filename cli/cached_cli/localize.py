"""`cached localize`: all inputs and outputs of a job in one call, through the cache."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from cached.errors import CachedError

from cached_cli.command import CachedCommand
from cached_cli.output import emit_json, report, size, table, talk, yes_no
from cached_cli.progress import Meter, patiently
from cached_cli.session import Session, pass_session

if TYPE_CHECKING:
    from cached.client.foresight import Foreseen
    from cached.client.localize import Failed, Outcome

#: The file that stands for stdin.
_STDIN = Path("-")
_MOST_AT_ONCE = 64


@click.command("localize", cls=CachedCommand)
@click.argument("transfers", metavar="TRANSFERS|-", type=click.Path(path_type=Path))
@click.option(
    "--dry-run",
    is_flag=True,
    help="Ask what there is, say what would be done, and move nothing.",
)
@click.option("--scope", metavar="S", help="Batch that it is done for (default: $CACHED_SCOPE).")
@click.option(
    "--at-once",
    type=click.IntRange(1, _MOST_AT_ONCE),
    default=8,
    show_default=True,
    metavar="N",
    help="Files moved at a time.",
)
@pass_session
def localize(session: Session, transfers: Path, dry_run: bool, scope: str | None, at_once: int) -> int:
    """Do a job's transfers: TRANSFERS is a file, or - for stdin, with a JSON list of {"from", "to", "cache"}.

    \b
      gs://BUCKET/OBJECT  to  PATH                an object becomes a file
      PATH                to  gs://BUCKET/OBJECT  a file becomes an object
      NAME[/PATH]         to  PATH                a set, or what of it is named, is copied

    Directories (with a / at the end, or local ones) go with everything below them. In `from`, * and ? stand for
    characters between slashes, ** for any. "cache": false keeps no copy on the node.

    Files that are there are replaced; each appears whole or not at all. What fails does not stop the rest: all
    errors are told, and the exit code is the highest of theirs. Ends with one line on stderr: sizes, from where the
    bytes came, and the share of them that was in a cache.
    """
    from cached.client.localize import move, plan
    from cached.client.transfers import read

    wanted = read(sys.stdin.buffer.read() if transfers == _STDIN else transfers.read_bytes())
    client = session.client()
    with patiently("Cloud Storage has not said yet what there is", session):
        copies, failed = plan(client, wanted)
    if dry_run:
        from cached.client.foresight import foresee

        with patiently("Cloud Storage has not said yet what there is", session):
            foreseen, more = foresee(client, copies)
        _show_plan(session, foreseen, [*failed, *more])
        return _told(session, [*failed, *more])
    with _ended_in_order(), Meter("localize", session) as meter:
        outcome = move(client, copies, failed, scope=scope, at_once=at_once, watcher=meter)
    if session.json:
        emit_json(_facts(outcome))
    code = _told(session, outcome.failed)
    if not session.json:
        talk(outcome.tally.line())
    return code


def _told(session: Session, failed: list[Failed]) -> int:
    """Tell every error, and return the highest exit code among them; with --json one error with all in its details."""
    worst = max((each.error for each in failed), key=lambda error: error.exit_code, default=None)
    if worst is None:
        return 0
    if not session.json:
        for each in failed:
            report(_named(each), as_json=False)
        return worst.exit_code
    one = type(worst)(worst.message, hint=worst.hint, items=[_failure(each) for each in failed])
    report(one, as_json=True)
    return worst.exit_code


def _named(failed: Failed) -> CachedError:
    """Return the error with what it happened to, where it does not say so itself."""
    error = failed.error
    if failed.source in error.message:
        return error
    return type(error)(f"{failed.source} to {failed.to}: {error.message}", hint=error.hint, **error.details)


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let a batch system's SIGTERM end the work as an interrupt does, so that no unfinished files stay."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _failure(failed: Failed) -> dict[str, Any]:
    return {"from": failed.source, "to": failed.to, **failed.error.to_wire()}


def _facts(outcome: Outcome) -> dict[str, Any]:
    moved = [
        {
            "from": each.copy.source,
            "to": each.copy.to,
            "files": each.files,
            "bytes": each.bytes,
            "place": each.place or None,
        }
        for each in outcome.moved
    ]
    return {
        "items": moved,
        "failed": [_failure(each) for each in outcome.failed],
        "summary": outcome.tally.facts(),
    }


def _show_plan(session: Session, foreseen: list[Foreseen], failed: list[Failed]) -> None:
    if session.json:
        rows = [
            {
                "from": each.copy.source,
                "to": each.copy.to,
                "bytes": each.copy.size,
                "kind": each.copy.kind,
                "cache": each.copy.cache,
                "place": each.place or None,
                "replaces": each.replaces,
            }
            for each in foreseen
        ]
        emit_json({"items": rows, "failed": [_failure(each) for each in failed]})
        return
    table(
        session,
        ["FROM", "TO", ">SIZE", "HERE", "REPLACES"],
        (
            (
                each.copy.source,
                each.copy.to,
                size(each.copy.size),
                each.place or "-",
                yes_no(each.replaces),
            )
            for each in foreseen
        ),
    )
