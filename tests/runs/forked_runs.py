"""Run the command line in forked copies of a process that has everything imported.

Starting Python and importing torch takes seconds; a fork takes none, and dies of SIGKILL like any
other process. Run as a script it serves requests, one JSON object a line:

    {"argv": [...], "log": file, "events": number or null, "within": folder}

It answers with the child's pid, then with how the child ended. `events`: the child kills itself
(SIGKILL) at that file operation (open, rename, mkdir, remove) within a folder.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

OPERATIONS = ("open", "os.rename", "os.mkdir", "os.remove", "os.truncate")


class ForkedRuns:
    """Client: begin runs and learn how they end."""

    def __init__(self):
        self.server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert json.loads(self._read()) == "ready"

    def _read(self) -> str:
        assert self.server.stdout is not None
        return self.server.stdout.readline()

    def begin(self, argv, log: Path, events: int | None = None, within="/") -> int:
        """Begin ``autofit-ml <argv>``; its pid."""
        assert self.server.stdin is not None
        request = {
            "argv": [str(a) for a in argv],
            "log": str(log),
            "events": events,
            "within": str(within),
        }
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return json.loads(self._read())

    def end(self) -> int:
        """Exit status of the run that was begun, negative for a signal."""
        return json.loads(self._read())

    def run(self, argv, log: Path, events: int | None = None, within="/") -> int:
        """`begin` and `end`."""
        self.begin(argv, log, events, within)
        return self.end()

    def close(self) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        assert self.server.stdout is not None
        self.server.stdout.close()
        self.server.wait(20)


def _child(request: dict) -> None:
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if request["events"] is not None:
        left = request["events"]

        def count(event: str, arguments) -> None:
            nonlocal left
            if event in OPERATIONS and str(arguments[0]).startswith(request["within"]):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
    sys.argv = ["autofit-ml", *request["argv"]]
    status = 1
    try:
        main()
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def answer(content) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


def _serve() -> None:
    answer("ready")
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _child(json.loads(line))
        answer(pid)
        answer(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


if __name__ == "__main__":
    from autofit_ml.cli import main

    _serve()
