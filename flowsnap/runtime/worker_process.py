"""The process of one worker: ``python -m flowsnap.runtime.worker_process``.

Its settings come as one line of JSON on standard input (not in the arguments, which others can
see). Standard input then stays open and silent: when it ends, the parent is dead, and so is this
process a moment later, whatever it is doing.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import zmq

from flowsnap import failpoint
from flowsnap.core.ids import OperatorId, WorkerId
from flowsnap.core.message import Deploy, WorkerSettings
from flowsnap.runtime.clock import SystemClock
from flowsnap.runtime.worker import Edges, Worker
from flowsnap.serialize import load_code
from flowsnap.storage.opening import open_writer
from flowsnap.transport.control import ControlClient, HeartbeatSender
from flowsnap.transport.plane import DataPlane, Route
from flowsnap.transport.zeromq import ZmqDataPlane

PR_SET_PDEATHSIG = 1


def main() -> int:
    """Run a worker until the job manager says so, or is gone."""
    os.umask(0o077)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the job manager's to take
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    parent = os.getppid()
    settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=WorkerSettings)
    _die_with_parent(parent)
    failpoint.arm(settings.failpoints, worker=settings.worker)
    sys.path[:] = list(settings.sys_path)
    os.chdir(settings.working_directory)
    context = zmq.Context()
    try:
        _run(settings, context)
    finally:
        context.destroy(linger=0)
    return 0


def _run(settings: WorkerSettings, context: zmq.Context[Any]) -> None:
    endpoint = Path(settings.control_directory)
    control = ControlClient(context, endpoint, settings.worker, settings.token)
    worker = Worker(
        settings.worker,
        control,
        SystemClock(),
        Edges(
            load_code=_CodeCache(),
            make_plane=lambda deploy, id_: make_plane(context, deploy, id_),
            make_writer=open_writer,
        ),
    )
    heartbeat = HeartbeatSender(
        context,
        endpoint,
        settings.worker,
        settings.token,
        interval_ms=settings.heartbeat_interval_ms,
        steps=lambda: worker.steps,
    )
    heartbeat.start()
    control.greet()
    try:
        _loop(worker, control)
    finally:
        heartbeat.stop()
        control.close()


def _loop(worker: Worker, control: ControlClient) -> None:
    poller, polled = zmq.Poller(), -1
    while not worker.is_done:
        wait_ms = worker.step()
        if worker.connections != polled:
            polled, plane, poller = worker.connections, worker.plane, zmq.Poller()
            for socket in [*control.sockets, *(plane.sockets if plane is not None else ())]:
                poller.register(socket, zmq.POLLIN)
        if wait_ms:
            poller.poll(wait_ms)


def make_plane(context: zmq.Context[Any], deploy: Deploy, worker: WorkerId) -> DataPlane:
    """Return the connections of ``worker`` to the others in one attempt."""
    workers = {task.id: task.worker for task in deploy.graph.tasks}
    routes = [
        Route(channel.id, workers[channel.source], workers[channel.target])
        for channel in deploy.graph.channels
    ]
    return ZmqDataPlane(
        context,
        Path(deploy.socket_directory),
        job=deploy.job,
        attempt=deploy.attempt,
        worker=worker,
        routes=routes,
    )


class _CodeCache:
    """The user's code, unpickled once per blob: classes keep their identity over attempts."""

    def __init__(self) -> None:
        self._sha256 = ""
        self._code: Mapping[OperatorId, Any] = {}

    def __call__(self, deploy: Deploy) -> Mapping[OperatorId, Any]:
        if deploy.code_sha256 != self._sha256:
            blob = Path(deploy.code_path).read_bytes()
            self._code = load_code(blob, deploy.code_sha256)
            self._sha256 = deploy.code_sha256
        return self._code


def _die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    threading.Thread(target=_wait_for_parent, name="flowsnap-parent", daemon=True).start()


def _wait_for_parent() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
