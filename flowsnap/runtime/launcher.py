"""Starts, watches and ends worker processes; none outlives the job manager."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Protocol

import msgspec

from flowsnap.core.ids import WorkerId
from flowsnap.core.message import WorkerSettings
from flowsnap.failpoint import VARIABLE

LOG = logging.getLogger("flowsnap.worker")
END_GRACE_S = 5.0


class Launcher(Protocol):
    """Where workers come from."""

    def launch(self, worker: WorkerId) -> None:
        """Start a worker; the former one of that id, if any, is killed and reaped first."""

    def kill(self, worker: WorkerId) -> None:
        """Kill a worker and reap it; one that is dead already is fine."""

    def deaths(self) -> list[tuple[WorkerId, str]]:
        """Return the workers that have died since the last call, each with how."""

    def pids(self) -> dict[WorkerId, int]:
        """Return the processes that run."""

    def close(self) -> None:
        """End every worker: those that were told to end get a moment, the others are killed."""


class ProcessLauncher:
    """Workers as processes of this machine, spawned afresh and never forked."""

    def __init__(self, control_directory: Path, heartbeat_interval_ms: int) -> None:
        self.token = secrets.token_hex(32)
        self._control_directory = control_directory
        self._heartbeat_interval_ms = heartbeat_interval_ms
        self._processes: dict[WorkerId, subprocess.Popen[bytes]] = {}
        self._launched: set[WorkerId] = set()

    def launch(self, worker: WorkerId) -> None:
        self.kill(worker)
        settings = WorkerSettings(
            worker=worker,
            control_directory=str(self._control_directory),
            token=self.token,
            heartbeat_interval_ms=self._heartbeat_interval_ms,
            sys_path=tuple(path or os.getcwd() for path in sys.path),
            working_directory=os.getcwd(),
            # A replacement is disarmed, or it would die of the same failpoint for ever.
            failpoints="" if worker in self._launched else os.environ.get(VARIABLE, ""),
        )
        self._launched.add(worker)
        process = subprocess.Popen(
            [sys.executable, "-m", "flowsnap.runtime.worker_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._processes[worker] = process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # dead already: ``deaths`` will tell
            process.stdin.write(msgspec.json.encode(settings) + b"\n")
            process.stdin.flush()
        threading.Thread(
            target=_relay,
            args=(worker, process.stdout),
            name=f"flowsnap-output-{worker}",
            daemon=True,
        ).start()

    def kill(self, worker: WorkerId) -> None:
        process = self._processes.pop(worker, None)
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            _reap(process)

    def deaths(self) -> list[tuple[WorkerId, str]]:
        dead = []
        for worker, process in list(self._processes.items()):
            code = process.poll()
            if code is not None:
                dead.append((worker, f"process {process.pid} {_how(code)}"))
                del self._processes[worker]
                _reap(process)
        return dead

    def pids(self) -> dict[WorkerId, int]:
        return {worker: process.pid for worker, process in self._processes.items()}

    def close(self) -> None:
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_GRACE_S)
        for worker in list(self._processes):
            self.kill(worker)


def _reap(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal: most of them have no name
        return f"was killed by signal {-code}"


def _relay(worker: WorkerId, output: IO[bytes]) -> None:
    """Hand what a worker prints to the log, line by line, control characters escaped."""
    with output:
        for line in output:
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            safe = "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in text)
            LOG.info("worker %d: %s", worker, safe)
