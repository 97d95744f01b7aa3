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

from flowsnap.storage.job_directory import JobDirectory
from tests.acceptance import jobs

WAIT_S = 60.0
POLL_S = 0.02
_LISTENS = "0A"
_TURN = threading.Event()  # never set: waiting for it gives the processor to the others


class Run:
    """One run of ``flowsnap run`` on the acceptance job."""

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        failpoints: str = "",
        scratch: Path | None = None,
        via: tuple[str, ...] = (),
    ) -> None:
        self.output = directory / "out"
        self.state = directory / "state"
        environment = {**os.environ, "FLOWSNAP_FAILPOINTS": failpoints}
        if scratch is not None:
            environment["TMPDIR"] = str(scratch)
        self.process = subprocess.Popen(
            [
                *via,
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

    def kill_at(self, checkpoints: int) -> list[int]:
        """Kill the job manager once there are so many checkpoints; return its workers."""
        until(lambda: len(self.checkpoints()) >= checkpoints, f"{checkpoints} checkpoints")
        workers = self.workers()
        self.kill()
        self.wait()
        return workers

    def directory(self) -> JobDirectory:
        """Open the job's directory for reading."""
        return JobDirectory.read(self.state, "per-user")

    def checkpoints(self) -> list[str]:
        """Return the complete checkpoints that are on disk."""
        return sorted(
            path.parent.name for path in self.state.glob("per-user/checkpoints/*/manifest.json")
        )


def flat(text: str) -> str:
    """Return what was printed without the frame around it and the breaks of its lines."""
    return " ".join(text.replace("│", " ").split())


def children(pid: int) -> list[int]:
    """Return the worker processes of a job manager."""
    command = ["ps", "-eo", "pid,ppid,args"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()[1:]]
    return [int(row[0]) for row in rows if row[1] == str(pid) and "worker_process" in row[2]]


def descendants(pid: int) -> list[int]:
    """Return the processes below one, its children first."""
    listed = subprocess.run(
        ["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    parents = [tuple(map(int, line.split())) for line in listed.splitlines()]
    found = [pid]
    for parent in found:
        found += [child for child, of in parents if of == parent]
    return found[1:]


def orphans(mark: str) -> list[int]:
    """Return the processes that have ``mark`` in their environment, other than this one."""
    with_environment = "-axEww" if sys.platform == "darwin" else "axeww"
    command = ["ps", with_environment, "-o", "pid=,stat=,command="]
    bare = {"PATH": os.environ["PATH"]}  # or it would list itself
    listed = subprocess.run(command, env=bare, capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines() if f" {mark}" in f"{line} "]
    return [int(row[0]) for row in rows if int(row[0]) != os.getpid() and "Z" not in row[1]]


def listening(pids: list[int]) -> list[str]:
    """Return the TCP addresses that processes listen at, where ``/proc`` tells it."""
    inodes = {
        link
        for pid in pids
        for entry in Path(f"/proc/{pid}/fd").glob("*")
        if (link := _target(entry)).startswith("socket:")
    }
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        if (path := Path(f"/proc/net/{table}")).exists()
        for line in path.read_text(encoding="ascii").splitlines()[1:]
    ]
    return [row[1] for row in rows if row[3] == _LISTENS and f"socket:[{row[9]}]" in inodes]


def shared_memory(pids: list[int]) -> list[str]:
    """Return what processes have mapped of ``/dev/shm``, where ``/proc`` tells it."""
    maps = [path for pid in pids if (path := Path(f"/proc/{pid}/maps")).exists()]
    return [line for path in maps for line in path.read_text().splitlines() if "/dev/shm" in line]


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""  # It has been closed since.


def is_stopped(pid: int) -> bool:
    """Return whether a process is held by SIGSTOP."""
    return _ps("stat", pid).startswith("T")


def resident_mib(pid: int) -> int:
    """Return how much memory a process holds; 0 if it is gone."""
    return int(_ps("rss", pid) or 0) // 1024


def _ps(field: str, pid: int) -> str:
    command = ["ps", "-o", f"{field}=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def until(is_reached: Callable[[], object], what: str, wait_s: float = WAIT_S) -> None:
    """Wait for something that another process does; there is nothing to be woken by."""
    deadline = time.monotonic() + wait_s
    while not is_reached():
        assert time.monotonic() < deadline, f"waited {wait_s} s for {what}"
        _TURN.wait(POLL_S)


def is_gone(pid: int) -> bool:
    """Return whether a process has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
