"""Every measurement, one after the other: `make bench`. Each is also a program of its own."""

from __future__ import annotations

from bench import start

start.main()
