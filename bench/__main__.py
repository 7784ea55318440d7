"""Every measurement, one after the other: `make bench`. Each is also a program of its own."""

from __future__ import annotations

from bench import object_traces, start

start.main()
object_traces.main()
