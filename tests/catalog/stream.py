"""A process that writes to a catalog without end and says, on standard output, what was acknowledged."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from cached.catalog.sqlite import Catalog
from tests.catalog import samples
from tests.catalog.samples import FakeClock


def content(number):
    return f"{number:064x}"


def commit_a_set(number):
    def work(tx):
        tx.put_set(samples.a_set(number, content=content(number)))
        tx.put_content(samples.a_content(content(number)))
        tx.put_replica(samples.a_replica(number, content=content(number)))

    return work


async def write_on(catalog, numbers):
    for number in numbers:
        await catalog.write(commit_a_set(number))
        os.write(1, b"%d\n" % number)


async def main(path, first, tasks):
    catalog = Catalog.open(Path(path), FakeClock())
    os.write(1, b"0\n")
    await asyncio.gather(*(write_on(catalog, range(first + n, first + 10**6, tasks)) for n in range(tasks)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), 8))
