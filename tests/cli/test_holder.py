"""Who a path is held for, and the process that holds it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from cached_cli.holder import Process, caller, look


def processes(*rows):
    known = {
        pid: Process(
            pid=pid, parent=parent, session=session, command=command, executable=executable, started=0
        )
        for pid, parent, session, command, executable in rows
    }
    return known.get


def test_the_caller_is_the_shell_and_not_its_subshell():
    shell = (10, 1, 10, b"bash\0job.sh\0", "/bin/bash")
    subshell = (11, 10, 10, b"bash\0job.sh\0", "/bin/bash")
    deeper = (12, 11, 10, b"bash\0job.sh\0", "/bin/bash")
    assert caller(12, processes(shell, subshell, deeper)) == 10
    assert caller(10, processes(shell)) == 10


def test_another_program_another_script_or_another_session_is_not_a_subshell():
    above = (10, 1, 10, b"bash\0outer.sh\0", "/bin/bash")
    assert caller(11, processes(above, (11, 10, 10, b"bash\0inner.sh\0", "/bin/bash"))) == 11
    assert caller(11, processes(above, (11, 10, 10, b"bash\0outer.sh\0", "/bin/dash"))) == 11
    assert caller(11, processes(above, (11, 10, 11, b"bash\0outer.sh\0", "/bin/bash"))) == 11


def test_a_process_that_cannot_be_looked_at_is_the_caller():
    assert caller(99, processes()) == 99


def test_this_process_is_found_in_proc():
    found = look(os.getpid())
    assert found is not None
    assert found.parent == os.getppid()
    assert found.session == os.getsid(0)
    assert look(2**22 + 1) is None


HOLD = """
import json, os, sys
from cached_cli.holder import hold
from cached.errors import CachedError, NotFound
class Held:
    def __init__(self, fd): self.fd = fd
def opened():
    if sys.argv[1] == "fail":
        raise NotFound("no such set", hint="look elsewhere", items=[1])
    return Held(os.open(sys.argv[1], os.O_RDONLY))
try:
    print(json.dumps(hold(opened, os.getppid())))
except CachedError as error:
    print(json.dumps(error.to_wire()))
"""

#: A shell stand-in: asks for a path, says it, and lives until its stdin closes.
SHELL = """
import subprocess, sys
print(subprocess.check_output([sys.executable, *sys.argv[1:]], text=True), end="", flush=True)
sys.stdin.read()
"""


def test_a_directory_is_held_until_the_asking_process_ends(tmp_path):
    (tmp_path / "file").write_text("held")
    command = [sys.executable, "-c", SHELL, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout is not None
        pid, descriptor = json.loads(shell.stdout.readline())
        held = Path(f"/proc/{pid}/fd/{descriptor}")
        assert (held / "file").read_text() == "held"
        assert os.getsid(pid) != os.getsid(0)
        assert {os.readlink(f"/proc/{pid}/fd/{number}") for number in (0, 1, 2)} == {os.devnull}
        ending = os.pidfd_open(pid)
    # The holder is nobody's child here: wait for its pidfd.
    import select

    assert select.select([ending], [], [], 30)[0]
    os.close(ending)
    assert not held.exists()


def test_what_the_holder_met_is_told():
    answer = subprocess.check_output([sys.executable, "-c", HOLD, "fail"], text=True)
    assert json.loads(answer)["error"] == {
        "code": "not_found",
        "message": "no such set",
        "hint": "look elsewhere",
        "details": {"items": [1]},
    }
