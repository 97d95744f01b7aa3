"""Who waits for what, when nothing happens any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowsnap.runtime.local import LocalLauncher
from flowsnap.runtime.worker import Worker
from flowsnap.testing.process import Process

if TYPE_CHECKING:
    from flowsnap.testing.cluster import Cluster


def wait_for(cluster: Cluster) -> str:
    """Return the wait-for graph of a cluster, a line for each thing that stands still."""
    process = cluster.manager
    if process is None or process.manager is None:
        return "there is no job manager"
    machine, attempt = process.manager._machine, process.manager._attempt
    lines = [
        f"{_state(process)}: job {machine.state}, failures {machine.failures[-3:]}",
        f"  workers {[status.name for status in machine._fleet._statuses.values()]}, "
        f"ended {sorted(machine._ended)}",
    ]
    if attempt is not None:
        lines.append(
            f"  attempt {attempt.id}: pending {attempt.coordinator.pending}, "
            f"commits missing {attempt.commits.missing}"
        )
        if attempt.loops._detector is not None:
            lines.append(f"  {attempt.loops._detector.describe()}")
    if isinstance(process.launcher, LocalLauncher):
        if process.launcher.worker is not None:
            lines += _worker(process.launcher.worker)
    else:
        for one in cluster.workers():
            lines.append(_state(one))
            lines += [] if one.worker is None else _worker(one.worker)
    return "\n".join(lines)


def _state(process: Process) -> str:
    return f"{process.name}{' (paused)' if process.is_paused else ''}"


def _worker(worker: Worker) -> list[str]:
    return [
        f"    {task.id}: {task.state}, "
        f"reads {[(id, len(channel.queue)) for id, channel in task.inputs.items()]}, "
        f"blocked {sorted(task._blocked)}, "
        f"waits for credit of "
        f"{[(channel.id, len(channel.backlog)) for channel in task.outputs if channel.backlog]}"
        for task in worker._tasks
    ]
