"""`make demo`: the main job from end to end, in about a minute. Ends with 0 when all of it worked."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from bench.demo.nodes import Cluster, CommandFailed
from bench.demo.stage import Stage
from bench.demo.story import SPACE, tell


def main() -> int:
    """Run the demonstration; return its exit code. Nothing stays behind, however it ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    cluster = Cluster(SPACE)
    code = 1
    try:
        with cluster:
            stage = Stage(cluster=cluster)
            try:
                tell(stage)
            except CommandFailed:
                stage.logs()
                raise
            stage.finish()
            code = 0
    except KeyboardInterrupt:
        print("\nmake demo: interrupted", file=sys.stderr)
        code = 130
    except CommandFailed as error:
        print(f"\nmake demo: it did not work: {error}", file=sys.stderr)
    left = cluster.leftovers()
    print(f"   left behind: {', '.join(left) if left else 'nothing: all processes ended, all files removed'}")
    return code or (1 if left else 0)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
