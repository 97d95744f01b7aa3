"""What once broke the engine, frozen."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from flowsnap import Pipeline
from flowsnap.config import Restart
from flowsnap.connectors import Collect, FromIterable
from flowsnap.core import manifest as manifests
from flowsnap.core import restore
from flowsnap.core.graph import build_execution_graph
from flowsnap.core.ids import AttemptId, CheckpointId, OperatorId, TaskId, WorkerId
from flowsnap.core.job import (
    FinalCommitted,
    JobMachine,
    StopRequested,
    Submitted,
    TaskReachedEnd,
    WorkerDeployed,
    WorkerUp,
)
from flowsnap.core.manifest import TaskSnapshot
from flowsnap.core.message import LookRound
from flowsnap.core.restart import RestartPolicy
from flowsnap.core.retention import manifest_path
from flowsnap.runtime.definition import PipelineDefinition
from flowsnap.storage.directory import DirectoryStore
from flowsnap.storage.job_store import JobStore
from flowsnap.storage.layout import begun_path
from flowsnap.testing.network import ControlHub
from flowsnap.testing.simulate import command, run_seed
from flowsnap.testing.trouble import POINTS, SELF, Fault
from flowsnap.testing.world import World
from flowsnap.transport.message import encode_message
from tests.manifests import checkpoint, words
from tests.simulation.rig import Endpoint, Rig

MANIFEST_DELETED = POINTS.index(("unlink", "manifest.json"))
MANIFEST_VISIBLE = POINTS.index(("link", "manifest.json"))


@pytest.mark.parametrize(("seed", "hit"), [(1, 1), (5, 1), (7, 1), (10, 1), (5, 2), (8, 2)])
def test_a_manifest_that_may_not_be_durable_is_secured_before_its_output_is_committed(
    seed: int, hit: int
) -> None:
    """The next job manager restored it and committed its output; a power loss took it away."""
    outcome = run_seed(seed, [Fault("point", hit, SELF, MANIFEST_VISIBLE, is_after=True)])

    assert not outcome.violation, f"{outcome.violation}\nreplay: {command(outcome)}"


@pytest.mark.parametrize(("seed", "hit"), [(26, 1), (35, 1), (82, 1), (20, 2)])
def test_a_manifest_is_surely_gone_before_the_files_that_it_listed(seed: int, hit: int) -> None:
    """The job manager died between both steps; the next one deleted the files for good."""
    outcome = run_seed(seed, [Fault("point", hit, SELF, MANIFEST_DELETED, is_after=True)])

    assert not outcome.violation, f"{outcome.violation}\nreplay: {command(outcome)}"


@pytest.mark.parametrize(("at", "is_after"), [(350, False), (358, True), (363, False)])
def test_the_last_commit_of_a_worker_that_died_may_come_while_the_job_starts_anew(
    at: int, is_after: bool
) -> None:
    """The job manager took it for impossible, and the job failed."""
    outcome = run_seed(374, [Fault("crash", at, 1, 0, is_after)])

    assert not outcome.violation, f"{outcome.violation}\nreplay: {command(outcome)}"


@pytest.mark.parametrize(("is_whole", "state"), [(True, "finished"), (False, "stopped")])
def test_a_stop_is_the_end_only_if_the_last_checkpoint_holds_the_end(
    is_whole: bool, state: str
) -> None:
    """Tasks ended behind barriers that had overtaken records: what was in transit was forgotten."""
    policy, task = RestartPolicy(Restart()), TaskId("a/0")
    machine = JobMachine(1, [task], policy, start_timeout_ms=100, cancel_timeout_ms=100)
    for event in (Submitted(), WorkerUp(WorkerId(0)), WorkerDeployed(WorkerId(0))):
        machine.handle(event, 0)
    machine.handle(StopRequested(), 1)
    machine.handle(TaskReachedEnd(task), 2)

    machine.handle(FinalCommitted(is_whole), 3)

    assert machine.state == state


def totals(second: int) -> PipelineDefinition:
    """A source feeds two subtasks by key, and they ``second`` others: one task, if both are one."""
    drawn = Pipeline("totals")
    numbers = drawn.source(FromIterable([1]), name="in", parallelism=2)
    counted = numbers.key_by(name="key", parallelism=2).count(name="total", parallelism=second)
    counted.key_by(name="again", parallelism=second).count(name="second", parallelism=1).sink(
        Collect(), name="out"
    )
    return drawn.definition(1)


HAD_ENDED = (OperatorId("total"), OperatorId("again"))


def cut_of(definition: PipelineDefinition, *ended: str) -> list[TaskSnapshot]:
    """Return what every task had in a checkpoint; ``ended`` are the tasks that had ended."""
    graph = build_execution_graph(definition.graph, 1)
    return [
        TaskSnapshot(task.id, graph.chains[task.chain].operators, task.subtask, task.id in ended)
        for task in graph.tasks
    ]


def ended_in_part(*ended: str) -> OperatorId | None:
    graph = build_execution_graph(totals(2).graph, 1)
    return restore.ended_in_part(cut_of(totals(2), *ended), graph)


def test_a_checkpoint_in_which_some_subtasks_have_ended_and_all_above_is_none() -> None:
    """They had their last output again after a restart: unaligned barriers overtake an end."""
    assert ended_in_part("in/0", "in/1", "total/1") == "total"


def test_subtasks_may_end_before_others_while_anything_above_goes_on() -> None:
    assert ended_in_part("total/0") is None
    assert ended_in_part() is None
    assert ended_in_part("in/0", "in/1", "total/0", "total/1") is None


def assigned(cut: list[TaskSnapshot], definition: PipelineDefinition) -> dict[str, Any]:
    manifest = msgspec.structs.replace(checkpoint(words()), tasks=tuple(cut), graph=totals(2).graph)
    graph = build_execution_graph(definition.graph, 1)
    splits = {OperatorId("in"): ()}
    return {one.task: one for one in restore.assign(manifest, graph, definition.graph, splits)}


def test_what_has_ended_does_not_end_again_in_one_task_with_what_had_not() -> None:
    """An unaligned barrier had overtaken the end; in another layout the last output came twice."""
    fused = totals(1)
    cut = cut_of(totals(2), "in/0", "in/1", "total/0", "total/1")

    found = assigned(cut, fused)["total/0"]

    assert (found.is_ended, found.ended) == (False, HAD_ENDED)


def test_it_is_still_known_after_the_next_checkpoint() -> None:
    fused = totals(1)
    cut = cut_of(fused, "in/0", "in/1")
    once_more = [
        msgspec.structs.replace(task, ended=HAD_ENDED)
        if OperatorId("total") in task.operators
        else task
        for task in cut
    ]

    assert assigned(once_more, totals(1))["total/0"].ended == HAD_ENDED
    alone = assigned(once_more, totals(2))
    assert (alone["total/0"].is_ended, alone["second/0"].is_ended) == (True, False)


def test_what_stands_below_something_that_goes_on_has_not_ended() -> None:
    found = assigned(cut_of(totals(2), "total/0", "total/1"), totals(1))["total/0"]

    assert (found.is_ended, found.ended) == (False, ())


def test_messages_to_a_worker_keep_their_order_whatever_they_wait_for() -> None:
    """Two that arrived at the same moment were taken in any order."""
    world, nobody = World(1), Endpoint()
    hub = ControlHub(world, nobody, lambda worker, message: None, lambda message: None)
    link = hub.link(Endpoint(), WorkerId(0))
    for number in range(1, 30):
        link._send_down(encode_message(LookRound(attempt=AttemptId(1), number=number)))
    while world.advance():
        pass

    received = link.receive()

    assert [getattr(message, "number", 0) for message in received] == list(range(1, 30))


def test_a_secured_manifest_survives_every_loss_of_power(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    jobs, path = (
        JobStore(DirectoryStore(tmp_path, rig.files), "job"),
        manifest_path(CheckpointId(1)),
    )
    data = manifests.encode(checkpoint(words()))
    rig.write_without_directory_sync(path, data)

    jobs.secure(CheckpointId(1))

    for seed in range(20):
        rig.disk.crash([rig.actor], Random(seed), is_power_lost=True)
        assert rig.store.get(path) == data


def test_a_manifest_whose_deletion_was_not_synced_does_not_return_without_its_files(
    tmp_path: Path,
) -> None:
    rig, path = Rig(tmp_path), manifest_path(CheckpointId(1))
    JobStore(rig.store, "job")
    rig.store.put(path, b"a manifest")
    rig.store.put(begun_path(CheckpointId(1)), b"")
    rig.files.unlink(tmp_path / path)

    JobStore(rig.store, "job").clean_leftovers()

    for seed in range(20):
        rig.disk.crash([rig.actor], Random(seed), is_power_lost=True)
        assert not rig.store.exists(path)
