from __future__ import annotations

from flowsnap.core.ids import AttemptId, WorkerId
from flowsnap.core.message import Cancel, Cancelled, Shutdown, WorkerReady
from flowsnap.runtime.clock import SystemClock
from flowsnap.runtime.definition import PipelineDefinition
from flowsnap.runtime.local import LocalLauncher, local_launcher
from flowsnap.runtime.worker import IDLE_MS, Worker
from flowsnap.transport.control import MemoryControl
from tests.manifests import words

WORKER, ATTEMPT = WorkerId(0), AttemptId(1)


def launcher() -> tuple[LocalLauncher[Worker], MemoryControl]:
    control = MemoryControl()
    return local_launcher(control, PipelineDefinition(words(), {}), SystemClock()), control


def test_there_is_nothing_to_do_before_a_launch() -> None:
    local, control = launcher()

    assert local.step() == IDLE_MS
    assert control.server.receive() == []


def test_a_launched_worker_registers() -> None:
    local, control = launcher()

    local.launch(WORKER)

    [(worker, ready)] = control.server.receive()
    assert worker == WORKER
    assert isinstance(ready, WorkerReady)


def test_the_worker_lives_on_the_steps_of_whoever_drives_it() -> None:
    local, control = launcher()
    local.launch(WORKER)
    control.server.receive()
    control.server.send(WORKER, Cancel(attempt=ATTEMPT))
    assert control.server.receive() == []

    local.step()

    assert control.server.receive() == [(WORKER, Cancelled(attempt=ATTEMPT, worker=WORKER))]


def test_a_killed_worker_hears_nothing_and_another_takes_its_place() -> None:
    local, control = launcher()
    local.launch(WORKER)
    local.kill(WORKER)
    assert local.step() == IDLE_MS

    local.launch(WORKER)
    control.server.receive()
    control.server.send(WORKER, Cancel(attempt=ATTEMPT))
    local.step()

    assert len(control.server.receive()) == 1


def test_a_worker_that_was_shut_down_may_be_closed_again() -> None:
    local, control = launcher()
    local.launch(WORKER)
    control.server.receive()
    control.server.send(WORKER, Shutdown(attempt=ATTEMPT))
    local.step()

    local.close()
    local.close()

    assert local.step() == IDLE_MS


def test_there_are_no_processes_and_so_no_deaths() -> None:
    local, _ = launcher()
    local.launch(WORKER)

    assert local.pids() == {}
    assert local.deaths() == []
