"""Where all race: one source and some receivers, each with a link of its own, and the same files to carry."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from bench.network import Network

#: Seconds between two looks whether all have everything.
_LOOK: Final = 0.02
#: Seconds that a server gets to answer, and a program that was told to end to do so.
_PATIENCE: Final = 30.0


class Late(Exception):
    """A racer had not brought everything to everybody in the time that it was given."""


class CannotRun(Exception):
    """A racer's program is not on this machine, or does not do what it is needed for."""


@dataclass
class Course:
    """Node 0 is the source, the others receive; `size` bytes lie in `data`. Seconds for everything that waits."""

    network: Network
    root: Path
    data: Path
    size: int
    receivers: int
    patience: float
    _ending: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def names(self) -> list[str]:
        """Names of the files, without folders."""
        return sorted(path.name for path in self.data.iterdir())

    def everybody(self) -> range:
        """Return the numbers of the receivers."""
        return range(1, self.receivers + 1)

    def address(self, number: int) -> str:
        """Return a node's address."""
        return self.network.address(number)

    def home(self, number: int) -> Path:
        """Return a folder of a node's own."""
        folder = self.root / f"n{number}"
        folder.mkdir(exist_ok=True)
        return folder

    def start(
        self, number: int, *command: str | Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Run a program on a node until the race is over; what it says goes to a file in its home."""
        log = self._ending.enter_context((self.home(number) / "log").open("ab"))
        process = subprocess.Popen(
            [*self.network.inside(number), *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
        self._ending.callback(_end, process)
        return process

    def ask(self, number: int, *command: str) -> str:
        """Run a program on a node to its end, and return what it printed."""
        done = subprocess.run(
            [*self.network.inside(number), *command], check=True, capture_output=True, timeout=_PATIENCE
        )
        return done.stdout.decode()

    def wait(self, done: Callable[[], bool], what: str) -> None:
        """Wait for a condition; raise `Late` when it does not come true."""
        until = time.monotonic() + self.patience
        while not done():
            if time.monotonic() > until:
                raise Late(f"{what}: not within {self.patience:.0f} s")
            time.sleep(_LOOK)

    def wait_for_files(self, folders: Mapping[int, Path]) -> None:
        """Wait until every file has its final name and size below each of the folders."""
        sizes = {path.name: path.stat().st_size for path in self.data.iterdir()}

        def there() -> bool:
            with contextlib.suppress(FileNotFoundError):
                return all(
                    (folder / name).stat().st_size == size
                    for folder in folders.values()
                    for name, size in sizes.items()
                )
            return False

        self.wait(there, "files at all receivers")

    def wait_for_port(self, number: int, port: int) -> None:
        """Wait until something listens at a port of a node."""
        self.wait(lambda: f":{port} " in self.ask(number, "ss", "-Hltn"), f"a listener at port {port}")

    def wait_for_ends(self, processes: list[subprocess.Popen[bytes]]) -> None:
        """Wait until all have ended well."""
        self.wait(lambda: all(one.poll() is not None for one in processes), "programs that have ended")
        if failed := [one for one in processes if one.returncode]:
            raise Late(f"{len(failed)} of {len(processes)} ended with exit code {failed[0].returncode}")

    def sent(self) -> int:
        """Return the bytes that the source's link has carried away from it, headers included."""
        words = self.ask(0, "cat", "/sys/class/net/eth0/statistics/tx_bytes")
        return int(words)

    def close(self) -> None:
        """End all programs that were started here."""
        self._ending.close()


class Racer(Protocol):
    """A way of bringing the files to all receivers."""

    name: str

    def version(self) -> str:
        """Return what the program calls itself; raise `CannotRun` where it is missing."""
        ...

    def prepare(self, course: Course) -> None:
        """Make everything ready up to the moment before the first byte of the files moves."""
        ...

    def race(self, course: Course) -> None:
        """Return when every receiver has everything."""
        ...


@contextlib.contextmanager
def course(
    network: Network, root: Path, data: Path, size: int, receivers: int, patience: float
) -> Iterator[Course]:
    """Give a course whose programs end with the block."""
    made = Course(network, root, data, size, receivers, patience)
    try:
        yield made
    finally:
        made.close()


def first_line(*command: str) -> str:
    """Return the first line that a program prints, or raise `CannotRun` where there is no such program."""
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except FileNotFoundError:
        raise CannotRun(f"{command[0]} is not installed") from None
    return (said.stdout + said.stderr).strip().splitlines()[0]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
