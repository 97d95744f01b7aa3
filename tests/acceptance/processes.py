"""Runs the command line as a user would, kills what is to be killed, and looks for leftovers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.acceptance import jobs

WAIT_S = 60.0
POLL_S = 0.02
_TURN = threading.Event()  # never set: waiting for it gives the processor to the others


class Run:
    """One run of ``flowsnap run`` on the acceptance job."""

    def __init__(self, directory: Path, *arguments: str, failpoints: str = "") -> None:
        self.output = directory / "out"
        self.state = directory / "state"
        environment = {**os.environ, "FLOWSNAP_FAILPOINTS": failpoints}
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "flowsnap.cli.main", "run", f"{jobs.__file__}:pipeline"),
                *("--arg", f"output={self.output}", "--state-dir", str(self.state)),
                *("--checkpoint-interval", "150ms", *arguments),
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait(self) -> tuple[int, str]:
        """Return the exit code and everything that was printed."""
        text, _ = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, text

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        return children(self.process.pid)

    def kill(self, sign: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the job manager's process."""
        self.process.send_signal(sign)

    def checkpoints(self) -> list[str]:
        """Return the complete checkpoints that are on disk."""
        return sorted(
            path.parent.name for path in self.state.glob("per-user/checkpoints/*/manifest.json")
        )


def children(pid: int) -> list[int]:
    """Return the worker processes of a job manager."""
    command = ["ps", "-eo", "pid,ppid,args"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()[1:]]
    return [int(row[0]) for row in rows if row[1] == str(pid) and "worker_process" in row[2]]


def until(is_reached: Callable[[], object], what: str) -> None:
    """Wait for something that another process does; there is nothing to be woken by."""
    deadline = time.monotonic() + WAIT_S
    while not is_reached():
        assert time.monotonic() < deadline, f"waited {WAIT_S} s for {what}"
        _TURN.wait(POLL_S)


def is_gone(pid: int) -> bool:
    """Return whether a process has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
