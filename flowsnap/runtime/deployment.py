"""Puts the tasks of one worker together: code, restored state, channels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowsnap.core.aligner import Aligner
from flowsnap.core.commit import SinkCommits
from flowsnap.core.element import Element
from flowsnap.core.graph import (
    ChainEdge,
    ChainSpec,
    ChannelSpec,
    OperatorKind,
    Partitioning,
    TaskSpec,
)
from flowsnap.core.ids import ChannelId, CheckpointId, OperatorId, TaskId, WorkerId
from flowsnap.core.key import encode_keys, key_groups
from flowsnap.core.manifest import ChannelState, FileHandle
from flowsnap.core.message import Deploy, TaskAssignment
from flowsnap.core.operator import SinkContext, Source
from flowsnap.core.transit import channel_state
from flowsnap.core.watermark import MIN_WATERMARK
from flowsnap.failpoint import failpoint
from flowsnap.runtime.chain import Chain, Named, user_code
from flowsnap.runtime.channel_state import Recording, Restored
from flowsnap.runtime.clock import Clock
from flowsnap.runtime.context import NoTables, Place, TaskContext
from flowsnap.runtime.input import FeedbackChannel, InputChannel, SourceInput
from flowsnap.runtime.output import OutputChannel, Router, make_router
from flowsnap.runtime.parts import TaskEvents, TaskParts
from flowsnap.runtime.spill import SpillQueue
from flowsnap.runtime.task import TaskRunner
from flowsnap.runtime.tracing import TracedOutput, TracedQueue, Tracer
from flowsnap.state.backend import RestoredState, StateBackend
from flowsnap.storage.writer import CheckpointWriter

SOURCE_BATCH_RECORDS = 4_096
Deliver = Callable[[ChannelId, Element], int]
Grant = Callable[[ChannelId, int], None]


@dataclass(slots=True)
class BuiltTask:
    """A task, and which stored files its database was opened on."""

    runner: TaskRunner
    restored_files: tuple[FileHandle, ...]


class Builder:
    """Builds the tasks of ``worker``; ``code`` has an operator template for each operator."""

    def __init__(
        self,
        deploy: Deploy,
        worker: WorkerId,
        code: Mapping[OperatorId, Any],
        writer: CheckpointWriter,
        make_state: Callable[..., StateBackend],
        clock: Clock,
    ) -> None:
        self._make_state = make_state
        self._clock = clock
        self._deploy = deploy
        self._worker = worker
        self._code = code
        self._writer = writer
        self._work_directory = Path(deploy.work_directory)
        self._chains = {chain.id: chain for chain in deploy.graph.chains}
        self._tasks = {task.id: task for task in deploy.graph.tasks}
        self._assignments = {assignment.task: assignment for assignment in deploy.assignments}
        self._keyed = {spec.name for spec in deploy.job_graph.operators if spec.is_keyed}
        self._sources = {
            spec.name for spec in deploy.job_graph.operators if spec.kind is OperatorKind.SOURCE
        }
        places = enumerate(deploy.graph.tasks) if deploy.config.trace else ()
        size = len(deploy.graph.tasks)
        self._tracers = {task.id: Tracer(place, size) for place, task in places}
        self._own = [task for task in deploy.graph.tasks if task.worker == worker]
        self._into: dict[TaskId, list[ChannelSpec]] = {task.id: [] for task in self._own}
        self._out_of: dict[TaskId, list[ChannelSpec]] = {task.id: [] for task in self._own}
        for channel in deploy.graph.channels:
            if channel.target in self._into:
                self._into[channel.target].append(channel)
            if channel.source in self._out_of:
                self._out_of[channel.source].append(channel)

    def build(self, events: TaskEvents, deliver: Deliver, grant: Grant) -> list[BuiltTask]:
        """Return this worker's tasks, restored and ready to start.

        Raises:
            ManifestCorrupt: a stored file is not what the manifest lists.
            OperatorError: the user's code failed in ``open`` or ``recover``.
        """
        built: list[BuiltTask] = []
        try:
            for task in self._own:
                built.append(self._build_task(task, events, deliver, grant))
        except BaseException:
            for one in built:
                one.runner.close()
            raise
        return built

    def _build_task(
        self, task: TaskSpec, events: TaskEvents, deliver: Deliver, grant: Grant
    ) -> BuiltTask:
        chain_spec = self._chains[task.chain]
        assignment = self._assignments.get(task.id, TaskAssignment(task.id))
        transit = self._transit(task, assignment)  # It may be damaged: nothing is open yet.
        state, restored = self._open_state(task, chain_spec, assignment)
        members: list[Named] = [(n, copy.copy(self._code[n])) for n in chain_spec.operators]
        source = None
        if members[0][0] in self._sources:
            source = self._source(members.pop(0)[1], chain_spec, task, assignment)
        chain = Chain(members, task.subtask, _entries(assignment), assignment.ended)
        inputs = self._inputs(task, grant)
        parts = TaskParts(
            spec=task,
            chain_spec=chain_spec,
            chain=chain,
            source=source,
            inputs=inputs,
            routers=self._routers(task, deliver),
            aligner=self._aligner(task),
            tracer=self._tracers.get(task.id),
            state=state,
            commits=SinkCommits(),
            is_ended=assignment.is_ended,
            linger_ms=self._deploy.config.batch_linger_ms,
            side_routers=self._side_routers(task, deliver),
            watermark_ms=_restored_ms(assignment, chain_spec),
            wall_ms=self._clock.wall_ms,
            now_ms=self._clock.now_ms,
            new_recording=self._recordings(task),
            transit=transit,
        )
        runner = TaskRunner(parts, events)
        try:
            self._open(chain, assignment, task, state)
            self._recover(chain, chain_spec, task, assignment)
        except BaseException:
            runner.close()
            raise
        return BuiltTask(runner, restored)

    # --- state --------------------------------------------------------------------------------

    def _open_state(
        self, task: TaskSpec, chain: ChainSpec, assignment: TaskAssignment
    ) -> tuple[StateBackend | None, tuple[FileHandle, ...]]:
        if not self._keyed.intersection(chain.operators):
            return None, ()
        directory = self._directory(task)
        restored = []
        for index, state in enumerate(assignment.states):
            target = directory / f"restored-{index}"
            self._writer.restore(state.handle.files, target)
            restored.append(RestoredState(target, state.handle.tables, state.handle.key_groups))
        failpoint("rs.files_verified")
        backend = self._make_state(
            directory,
            key_groups=task.key_groups,
            max_parallelism=self._deploy.graph.max_parallelism,
            memory_bytes=self._memory_bytes(),
            restored=restored,
            operators=chain.operators,
        )
        failpoint("rs.state_opened")
        files = assignment.states[0].handle.files if backend.is_opened_directly else ()
        return backend, files

    def _memory_bytes(self) -> int:
        stateful = sum(
            1 for task in self._own if self._keyed.intersection(self._chains[task.chain].operators)
        )
        return self._deploy.config.state_memory_bytes // max(1, stateful)

    # --- operators ----------------------------------------------------------------------------

    def _source(
        self, source: Any, chain: ChainSpec, task: TaskSpec, assignment: TaskAssignment
    ) -> SourceInput:
        assert isinstance(source, Source), f"{chain.operators[0]!r} is drawn as a source"
        return SourceInput(
            source,
            chain.operators[0],
            task.subtask,
            assignment.splits,
            SOURCE_BATCH_RECORDS,
            _restored_ms(assignment, chain),
        )

    def _open(
        self, chain: Chain, assignment: TaskAssignment, task: TaskSpec, state: StateBackend | None
    ) -> None:
        spec = self._chains[task.chain]
        place = Place(
            job=self._deploy.job,
            subtask=task.subtask,
            parallelism=spec.parallelism,
            attempt=self._deploy.attempt,
            wall_ms=self._clock.wall_ms,
            restored=assignment.operator_states,
        )
        contexts: dict[OperatorId, TaskContext] = {}
        for name in spec.operators:
            tables = state if state is not None and name in self._keyed else NoTables()
            contexts[name] = TaskContext(tables, name, place)
        chain.open(contexts, assignment.watermarks)
        if state is not None:
            state.check_declared()

    def _recover(
        self, chain: Chain, spec: ChainSpec, task: TaskSpec, assignment: TaskAssignment
    ) -> None:
        sink = chain.sink
        if sink is None:
            return
        name = spec.operators[-1]
        with user_code(name, task.subtask):
            sink.open(self._sink_context(name, spec, task))
            if task.subtask == 0:
                sink.recover([output.committable for output in assignment.recovered])
        failpoint("rs.recommitted")

    def _sink_context(self, name: OperatorId, spec: ChainSpec, task: TaskSpec) -> SinkContext:
        return SinkContext(
            job=self._deploy.job,
            run_id=self._deploy.run_id,
            operator=name,
            subtask=task.subtask,
            parallelism=spec.parallelism,
            attempt=self._deploy.attempt,
        )

    # --- channels -----------------------------------------------------------------------------

    def _directory(self, task: TaskSpec) -> Path:
        return self._work_directory / _directory_name(task.id)

    def _inputs(self, task: TaskSpec, grant: Grant) -> list[InputChannel]:
        directory = self._directory(task)
        return [self._input(channel, directory, grant) for channel in self._into[task.id]]

    def _input(self, channel: ChannelSpec, directory: Path, grant: Grant) -> InputChannel:
        capacity = self._deploy.config.channel_capacity_batches
        edge = self._deploy.graph.edges[channel.edge]
        if edge.is_feedback:
            queue = SpillQueue(directory / f"feedback-{channel.id}")
            made: InputChannel = FeedbackChannel(channel.id, capacity, grant, queue)
        else:
            made = InputChannel(channel.id, capacity, grant, edge.port)
        if channel.target in self._tracers:
            made.queue = TracedQueue(channel.id, self._tracers[channel.target])
        return made

    def _recordings(self, task: TaskSpec) -> Callable[[CheckpointId], Recording]:
        """Return what makes the recording of a checkpoint's channel state."""
        graph, received, sent = self._deploy.graph, self._into[task.id], self._out_of[task.id]
        channels: dict[ChannelId, ChannelState] = {}

        def new_recording(checkpoint_id: CheckpointId) -> Recording:
            if not channels:  # Nothing is ever recorded by most.
                channels.update((one.id, channel_state(graph, one, is_sent=True)) for one in sent)
                channels.update(
                    (one.id, channel_state(graph, one, is_sent=False)) for one in received
                )
            return Recording(self._directory(task) / f"channels-{checkpoint_id}", channels)

        return new_recording

    def _transit(self, task: TaskSpec, assignment: TaskAssignment) -> Restored:
        """Return what was in transit to a task; its files are fetched, and verified."""
        files = []
        for number, part in enumerate(assignment.transit):
            target = self._directory(task) / f"transit-{number}"
            self._writer.restore((part.file,), target)
            files.append(target / part.file.name)
        (start, end), groups = task.key_groups, self._deploy.graph.max_parallelism

        def owns(keys: list[Any]) -> list[bool]:
            return [start <= group < end for group in key_groups(encode_keys(keys), groups)]

        return Restored(assignment.transit, files, owns)

    def _routers(self, task: TaskSpec, deliver: Deliver) -> list[Router]:
        """Return the routers of the main output."""
        by_edge, edges = self._outputs(task), self._deploy.graph.edges
        return [
            self._router(edges[edge], channels, task, deliver)
            for edge, channels in by_edge.items()
            if not edges[edge].tag
        ]

    def _side_routers(self, task: TaskSpec, deliver: Deliver) -> dict[str, list[Router]]:
        """Return the routers of the side outputs, by ``<operator>/<tag>``."""
        by_edge, edges = self._outputs(task), self._deploy.graph.edges
        routers: dict[str, list[Router]] = {}
        for edge, channels in by_edge.items():
            if tag := edges[edge].tag:
                router = self._router(edges[edge], channels, task, deliver)
                routers.setdefault(tag, []).append(router)
        return routers

    def _outputs(self, task: TaskSpec) -> dict[int, list[ChannelSpec]]:
        by_edge: dict[int, list[ChannelSpec]] = {}
        for channel in self._out_of[task.id]:
            by_edge.setdefault(channel.edge, []).append(channel)
        return dict(sorted(by_edge.items()))

    def _router(
        self, edge: ChainEdge, channels: list[ChannelSpec], task: TaskSpec, deliver: Deliver
    ) -> Router:
        groups = self._deploy.graph.max_parallelism
        target = self._chains[edge.target].operators[0]
        batch_bytes = self._deploy.config.batch_bytes
        can_overtake = edge.partitioning is not Partitioning.BROADCAST
        tracer = self._tracers.get(task.id)
        outputs = [OutputChannel(one.id, target, deliver, batch_bytes) for one in channels]
        if tracer is not None:
            outputs = [TracedOutput(o.id, target, deliver, batch_bytes, tracer) for o in outputs]
        for output in outputs:
            output.can_overtake = can_overtake
        return make_router(
            edge.partitioning,
            outputs,
            task.subtask,
            key_groups_of=lambda keys: key_groups(encode_keys(keys), groups),
            max_parallelism=groups,
        )

    def _aligner(self, task: TaskSpec) -> Aligner | None:
        edges = self._deploy.graph.edges
        inputs = {channel.id: edges[channel.edge] for channel in self._into[task.id]}
        if not inputs:
            return None
        return Aligner(
            inputs,
            mode=self._deploy.config.checkpoint_mode,
            feedback=[id_ for id_, edge in inputs.items() if edge.is_feedback],
            broadcast=[
                id_ for id_, edge in inputs.items() if edge.partitioning is Partitioning.BROADCAST
            ],
        )


def _entries(assignment: TaskAssignment) -> set[OperatorId]:
    """Return the operators that something was in transit to: it is processed from there on."""
    return {channel.target for part in assignment.transit for channel in part.channels}


def _restored_ms(assignment: TaskAssignment, chain: ChainSpec) -> int:
    """Return the event time that had come in through all inputs of a task."""
    return assignment.watermarks.get(chain.operators[0], MIN_WATERMARK)


def _directory_name(task: TaskId) -> str:
    return task.replace("/", ".")
