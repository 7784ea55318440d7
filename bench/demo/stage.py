"""How the demonstration speaks: headings, commands as a user types them, progress bars, the table at the end."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cached.units import format_size

from bench.demo.nodes import CACHED, Cluster, CommandFailed

_BOLD, _DIM, _GREEN, _OFF = (
    ("\033[1m", "\033[2m", "\033[32m", "\033[0m") if sys.stdout.isatty() else ("",) * 4
)


@dataclass(kw_only=True)
class Stage:
    """Runs commands on the cluster's nodes where everybody can see them, and remembers what came out."""

    cluster: Cluster
    began: float = field(default_factory=time.monotonic)
    #: Lines of the summary: what, outcome, seconds.
    summary: list[tuple[str, str, float]] = field(default_factory=list)

    @contextmanager
    def scene(self, title: str) -> Iterator[list[str]]:
        """Head one part of the story; what the part appends to the list becomes its outcome in the summary."""
        start, outcome = time.monotonic(), list[str]()
        print(f"\n{_BOLD}== {title}{_OFF}  {_DIM}({start - self.began:.0f} s){_OFF}", flush=True)
        yield outcome
        self.summary.append((title, "; ".join(outcome), time.monotonic() - start))

    def say(self, text: str) -> None:
        """Explain what is shown."""
        print(f"   {text}", flush=True)

    def run(self, name: str, *words: str, expect: int = 0, most: int = 12) -> tuple[str, str]:
        """Show and run a `cached` command as a user of one node; return what it wrote to stdout and to stderr.

        Raises `CommandFailed` when its exit code is not the one expected. At most `most` lines are shown.
        """
        self.show(name, "cached", *words)
        done = self.cluster.run_on(name, CACHED, *words)
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        lines = [*out.splitlines(), *err.splitlines()]
        for line in lines[:most]:
            print(f"     {self._short(line)}")
        if len(lines) > most:
            print(f"     {_DIM}... {len(lines) - most} more lines{_OFF}")
        if done.returncode != expect:
            raise CommandFailed(
                f"exit code {done.returncode} instead of {expect}: cached {shlex.join(words)}\n{err}"
            )
        if expect:
            print(f"     {_DIM}exit code {done.returncode}{_OFF}", flush=True)
        return out, err

    def show(self, name: str, *words: str, note: str = "") -> None:
        """Print a command line after the node's prompt, without running it."""
        print(
            f"   {_BOLD}{name}${_OFF} {self._short(' '.join(_quoted(word) for word in words))}{note}",
            flush=True,
        )

    def watch(self, name: str, ref: str, nodes: Sequence[str], *, patience: float) -> float:
        """Follow a set until these nodes hold it, with a line a node whenever something moved; return the seconds."""
        self.show(name, "cached", "show", ref, "--json")
        self.say("(again and again; progress per node:)")
        shown: dict[str, int] = {}

        def look() -> bool:
            found = self.cluster.ask(name, "show", ref)
            replicas = {replica["node"]: replica for replica in found["replicas"]}
            wanted = [replicas[node] for node in nodes if node in replicas]
            if any(_tenth(one, found["bytes"]) > shown.get(one["node"], -1) for one in wanted):
                shown.update({one["node"]: _tenth(one, found["bytes"]) for one in wanted})
                print("     " + "   ".join(_bar(one, found["bytes"]) for one in wanted), flush=True)
            return len(wanted) == len(nodes) and all(one["state"] == "COMMITTED" for one in wanted)

        return self.cluster.wait(f"replicas on {', '.join(nodes)}", look, patience=patience, pause=0.1)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print rows in aligned columns."""
        cells = [list(head), *([str(cell) for cell in row] for row in rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
        for number, row in enumerate(cells):
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            print(f"     {_BOLD}{line}{_OFF}" if not number else f"     {line}")

    def finish(self) -> None:
        """Print the summary."""
        print(f"\n{_BOLD}== What was shown{_OFF}")
        self.table(
            ["PART", "SECONDS", "OUTCOME"],
            [(title, f"{seconds:.1f}", outcome) for title, outcome, seconds in self.summary],
        )
        print(f"\n   {_GREEN}all of it worked{_OFF}, in {time.monotonic() - self.began:.0f} s")

    def logs(self) -> None:
        """Print how each node's log ends, to tell why something did not work."""
        for name, node in self.cluster.nodes.items():
            print(f"\n{_BOLD}== the log of {name} ends:{_OFF}")
            print("\n".join(node.log.read_text(errors="replace").splitlines()[-40:]))

    def _short(self, line: str) -> str:
        """Leave out what says nothing to a reader: the long temporary directory."""
        for folder in sorted({str(self.cluster.work), str(self.cluster.run)} - {str(Path())}, key=len):
            line = line.replace(folder, "DEMO")
        return line


def _quoted(word: str) -> str:
    """Quote a word for a reader: only what a shell would not take as it is; `{nr}` it does."""
    return (
        word if all(char.isalnum() or char in "-_./:=,{}@%+" for char in word) and word else shlex.quote(word)
    )


def _tenth(replica: dict[str, Any], wanted: int) -> int:
    if replica["state"] == "COMMITTED":
        return 21
    return 20 * int(replica["bytes_present"]) // max(wanted, 1)


def _bar(replica: dict[str, Any], wanted: int) -> str:
    done = replica["state"] == "COMMITTED"
    full = 20 if done else min(20, _tenth(replica, wanted))
    state = "committed" if done else format_size(replica["bytes_present"])
    return f"{replica['node']:<6}[{'#' * full:<20}] {state:<10}"
