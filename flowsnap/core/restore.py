"""Which checkpoint to restore, does the pipeline fit it, and what does each task start from?

A checkpoint belongs to the tasks of an old execution graph; the new one may have another
parallelism, other chains, another number of workers. So nothing is handed from task to task. It is
handed on by what it belongs to:

- keyed state by operator name and key group: a task gets the handles of all old tasks that hold
  tables of its operators for key groups of its own range, and takes its part of each;
- a source's splits by split id, dealt out anew so that each is read by exactly one subtask;
- prepared output by sink name, all to the sink's subtask 0, which commits what the checkpoint
  promised;
- what was in transit by the operator it was sent to, and by key (see ``transit``);
- the end of input by chain: one that had processed the end of its input, everywhere, does not do so
  again, unless new input has appeared above it.

Whatever does not fit is refused and named on both sides, never dropped: state without an operator,
a split half read that is gone, a keyed operator that would begin in the middle of the stream. Only
what the user has allowed by name of the flag is let go of, or begins empty.

Invariants: every split of a source is assigned once; the unfinished ones differ by at most one
between subtasks; every (operator, key group) of the checkpoint reaches exactly the task that owns
it now.

Source: Carbone et al., "State Management in Apache Flink" (VLDB 2017), sections 3.2 and 4.3, for
key groups and reconfiguration; Flink's StateAssignmentOperation. Deviation: Flink's finished
operators are per vertex with exceptions for sources; splits that are not visible at a restore were
once dropped silently there (FLINK-7195).

Example:
    >>> choose([CheckpointId(3), CheckpointId(5)], None)
    5
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

import msgspec

from flowsnap.core import operator_state, transit
from flowsnap.core.graph import (
    ChainSpec,
    ExecutionGraph,
    JobGraph,
    OperatorKind,
    OperatorSpec,
    Partitioning,
    TaskSpec,
)
from flowsnap.core.ids import ChainId, CheckpointId, OperatorId
from flowsnap.core.manifest import CheckpointManifest, PreparedOutput, SplitPosition, TaskSnapshot
from flowsnap.core.message import StateAssignment, TaskAssignment
from flowsnap.core.operator import Split
from flowsnap.errors import (
    ConfigError,
    LocalProtocolError,
    ManifestCorrupt,
    RestoreError,
    StateIncompatible,
)


def choose(
    available: Sequence[CheckpointId], requested: CheckpointId | None
) -> CheckpointId | None:
    """Return the requested checkpoint, or the newest; None where there is none at all.

    Raises:
        RestoreError: the requested one is not available.
    """
    if requested is None:
        return max(available, default=None)
    if requested not in available:
        there = ", ".join(map(str, sorted(available))) or "none"
        raise RestoreError(f"there is no checkpoint {requested}; available: {there}")
    return requested


class Allowed(msgspec.Struct, frozen=True):
    """In which ways may a pipeline differ from the checkpoint that it goes on from?

    ``removed``: operators may be gone, and what the checkpoint holds of them is dropped. ``added``:
    an operator that keeps state, or a source or sink, may be new: it begins empty, in the middle of
    the stream.
    """

    removed: bool = False
    added: bool = False


NOTHING = Allowed()


def check_compatible(
    manifest: CheckpointManifest, graph: JobGraph, allowed: Allowed = NOTHING
) -> None:
    """Check that the pipeline ``graph`` can go on from a checkpoint.

    Raises:
        StateIncompatible: state has no operator to go to, or an operator has changed its nature.
        ManifestCorrupt: the manifest lacks the part of a task.
    """
    _check_complete(manifest)
    old = {spec.name: spec for spec in manifest.graph.operators}
    new = {spec.name: spec for spec in graph.operators}
    stateful = _stateful(manifest)
    where = f"checkpoint {manifest.checkpoint_id}"
    _check_changes(where, difference(manifest, graph), allowed)
    for name in stateful:
        if name in new:
            _check_unchanged(where, old[name], new[name])
    _check_transit(manifest, graph)
    kept = [name for name in _keyed(manifest) if name in new]
    if graph.max_parallelism != manifest.graph.max_parallelism and kept:
        raise StateIncompatible(
            f"max_parallelism is {graph.max_parallelism}, but {where} has the state of "
            f"{_quoted(kept)} in {manifest.graph.max_parallelism} key groups"
        ).hint("key groups cannot be split: set max_parallelism as it was")


class Difference(msgspec.Struct, frozen=True):
    """How a pipeline differs from a checkpoint, by operators, in the order of either graph.

    ``removed``: the checkpoint has something of them. ``emptied``: they are gone too, and had
    nothing. ``added``: they keep state, and the checkpoint knows nothing of it.
    """

    removed: tuple[OperatorId, ...]
    emptied: tuple[OperatorId, ...]
    added: tuple[OperatorId, ...]


def difference(manifest: CheckpointManifest, graph: JobGraph) -> Difference:
    """Return how the pipeline ``graph`` differs from a checkpoint, as far as state goes."""
    old = {spec.name: spec for spec in manifest.graph.operators}
    new = {spec.name: spec for spec in graph.operators}
    removed = tuple(name for name in _stateful(manifest) if name not in new)
    return Difference(
        removed=removed,
        emptied=tuple(
            name
            for name, spec in old.items()
            if _keeps_state(spec) and name not in new and name not in removed
        ),
        added=tuple(
            name
            for name, spec in new.items()
            if _keeps_state(spec) and (name not in old or not _keeps_state(old[name]))
        ),
    )


def assign(
    manifest: CheckpointManifest,
    graph: ExecutionGraph,
    job_graph: JobGraph,
    splits: Mapping[OperatorId, Sequence[Split]],
) -> tuple[TaskAssignment, ...]:
    """Return what every task of ``graph`` starts from, in the order of its tasks.

    ``splits``: what each source has found now. A known split goes on at its position, opened with
    what was found now; a new one is read from its beginning; a finished one may have disappeared.

    Raises:
        RestoreError: a split that is not read to its end is not found any more.
        ConfigError: a source has found two splits of one id.
    """
    return _assign(manifest.tasks, graph, job_graph, splits)


def assign_fresh(
    graph: ExecutionGraph, job_graph: JobGraph, splits: Mapping[OperatorId, Sequence[Split]]
) -> tuple[TaskAssignment, ...]:
    """Return what every task of ``graph`` starts from without a checkpoint.

    Raises:
        ConfigError: a source has found two splits of one id.
    """
    return _assign((), graph, job_graph, splits)


# --- compatibility ---------------------------------------------------------------------------


def _check_complete(manifest: CheckpointManifest) -> None:
    where = f"checkpoint {manifest.checkpoint_id}"
    parts = sorted((name, task.subtask) for task in manifest.tasks for name in task.operators)
    operators = manifest.graph.operators
    wanted = sorted((spec.name, i) for spec in operators for i in range(spec.parallelism))
    if parts != wanted:
        name, subtask = min(set(parts).symmetric_difference(wanted), default=parts[0])
        raise ManifestCorrupt(f"{where} does not hold the part of {name}/{subtask} exactly once")
    for task in manifest.tasks:
        for table in task.state.tables if task.state is not None else ():
            if table.operator not in task.operators:
                raise ManifestCorrupt(f"{where} has state of {table.operator!r} in {task.task}")


def _stateful(manifest: CheckpointManifest) -> list[OperatorId]:
    """Return the operators that have anything in a checkpoint, in the order of its graph."""
    found = set(_keyed(manifest))
    found |= {task.operators[0] for task in manifest.tasks if task.splits}
    found |= {state.operator for task in manifest.tasks for state in task.operator_states}
    found |= {task.operators[-1] for task in manifest.tasks if task.prepared}
    found |= transit.targets(manifest.tasks)
    return [spec.name for spec in manifest.graph.operators if spec.name in found]


def _keyed(manifest: CheckpointManifest) -> list[OperatorId]:
    states = [task.state for task in manifest.tasks if task.state is not None]
    by_key = {
        channel.target
        for task in manifest.tasks
        for channel in task.channels
        if channel.partitioning is Partitioning.HASH
    }
    return sorted({table.operator for state in states for table in state.tables} | by_key)


def _check_transit(manifest: CheckpointManifest, graph: JobGraph) -> None:
    if wrong := transit.misdirected(manifest.tasks, graph):
        raise StateIncompatible(
            f"checkpoint {manifest.checkpoint_id} has records in transit to {_quoted(wrong)}, "
            f"whose input is partitioned in another way now"
        ).hint("change the pipeline from an aligned checkpoint, in which nothing is in transit")


def _keeps_state(spec: OperatorSpec) -> bool:
    return spec.is_keyed or spec.kind in {OperatorKind.SOURCE, OperatorKind.SINK}


def _check_changes(where: str, change: Difference, allowed: Allowed) -> None:
    """Refuse what is gone or new and not allowed.

    Where both a name that kept state is gone and another is new, it looks like a new name for the
    old operator: then either must be allowed, also where nothing of the old one is lost.
    """
    gone = () if allowed.removed else change.removed
    appeared = () if allowed.added else change.added
    if not gone and not appeared:
        return
    if not allowed.removed and appeared:
        gone += change.emptied
    lacks = f"{where} has {_quoted(gone)}, which the pipeline lacks"
    knows = f"the pipeline has {_quoted(appeared)}, of which {where} knows nothing"
    may_drop = f"allow removed operators (--allow-removed) to drop the state of {_quoted(gone)}"
    may_begin = f"allow added operators (--allow-added) to have {_quoted(appeared)} begin empty"
    if not appeared:
        raise StateIncompatible(lacks).hint(
            f"state is found by the operator's name: was it renamed or removed? {may_drop}"
        )
    if not gone:
        raise StateIncompatible(knows).hint(
            f"it would begin in the middle of the stream: if this is meant, {may_begin}"
        )
    raise (
        StateIncompatible(f"{lacks}; {knows}")
        .hint("state is found by the operator's name: if it was renamed, give it its old name")
        .hint(f"otherwise {may_drop}, and {may_begin}")
    )


def _check_unchanged(where: str, old: OperatorSpec, new: OperatorSpec) -> None:
    for what, before, now in (("kind", old.kind, new.kind), ("type", old.type, new.type)):
        if before != now:
            raise StateIncompatible(
                f"{where} has state of {old.name!r} of the {what} {before!s}, in the pipeline its "
                f"{what} is {now!s}"
            ).hint("give another operator another name")


def _quoted(names: Iterable[OperatorId]) -> str:
    return ", ".join(repr(str(name)) for name in names)


# --- assignment ------------------------------------------------------------------------------


def _assign(
    old: Sequence[TaskSnapshot],
    graph: ExecutionGraph,
    job_graph: JobGraph,
    splits: Mapping[OperatorId, Sequence[Split]],
) -> tuple[TaskAssignment, ...]:
    kinds = {spec.name: spec.kind for spec in job_graph.operators}
    dealt: dict[ChainId, list[tuple[SplitPosition, ...]]] = {}
    for chain in graph.chains:
        source = chain.operators[0]
        if kinds[source] is OperatorKind.SOURCE:
            positions = _positions(source, old, _found(source, splits))
            dealt[chain.id] = _deal(positions, chain.parallelism)
    ended = _ended(old, graph, dealt)
    return tuple(
        TaskAssignment(
            task.id,
            is_ended=task.chain in ended,
            ended=()
            if _has_more(dealt.get(task.chain, ()))
            else _ended_before(old, graph.chains[task.chain], graph, ended),
            states=_states(old, graph.chains[task.chain], task),
            splits=dealt[task.chain][task.subtask] if task.chain in dealt else (),
            recovered=_recovered(old, graph.chains[task.chain], task),
            operator_states=operator_state.deal(old, graph.chains[task.chain], task.subtask),
            watermarks=operator_state.watermarks(old, graph, task),
            transit=transit.assign(old, graph, task),
        )
        for task in graph.tasks
    )


def _found(source: OperatorId, splits: Mapping[OperatorId, Sequence[Split]]) -> dict[str, Split]:
    if source not in splits:
        raise LocalProtocolError(f"source {source!r} was not asked for its splits")
    found = {split.id: split for split in splits[source]}
    if len(found) < len(splits[source]):
        ids = [split.id for split in splits[source]]
        twice = next(id_ for id_ in ids if ids.count(id_) > 1)
        raise ConfigError(f"source {source!r} has two splits with the id {twice!r}")
    return found


def _positions(
    source: OperatorId, old: Sequence[TaskSnapshot], found: Mapping[str, Split]
) -> list[SplitPosition]:
    """Return where each split is to go on: those found, then those finished and gone."""
    known: dict[str, SplitPosition] = {}
    for position in (p for task in old if task.operators[0] == source for p in task.splits):
        if position.split in known:
            raise ManifestCorrupt(f"split {position.split!r} of {source!r} was read by two tasks")
        known[position.split] = position
    gone = [position for id_, position in known.items() if id_ not in found]
    for position in gone:
        if not position.is_finished:
            raise RestoreError(
                f"split {position.split!r} of {source!r} was read up to {position.position!r}, "
                f"not to its end, and is not there any more"
            ).hint("bring the input back, or start anew without the checkpoint")
    return [_position(split, known.get(split.id)) for split in found.values()] + gone


def _position(split: Split, known: SplitPosition | None) -> SplitPosition:
    position: Any = None if known is None else known.position
    is_finished = known is not None and known.is_finished and not _has_grown(split, known)
    mark = None if known is None else known.watermark_ms
    return SplitPosition(split.id, split.payload, split.size, position, is_finished, mark)


def _has_grown(split: Split, known: SplitPosition) -> bool:
    """Return whether there is more in a split than when it was read to its end."""
    return split.size is not None and known.size is not None and split.size > known.size


def _deal(positions: Sequence[SplitPosition], parallelism: int) -> list[tuple[SplitPosition, ...]]:
    """Deal splits out in turn; the unfinished ones first, so that the work left is even."""
    ordered = sorted(positions, key=lambda position: position.is_finished)
    return [tuple(ordered[subtask::parallelism]) for subtask in range(parallelism)]


def _ended(
    old: Sequence[TaskSnapshot],
    graph: ExecutionGraph,
    dealt: Mapping[ChainId, Sequence[Sequence[SplitPosition]]],
) -> set[ChainId]:
    """Return the chains that have processed the end of their input for good."""
    known = {name for task in old for name in task.operators}
    running = _running(old)
    ended = {chain.id for chain in graph.chains if _was_ended(chain, known, running)}
    ended -= {chain_id for chain_id, positions in dealt.items() if _has_more(positions)}
    while revived := {e.target for e in graph.edges if e.source not in ended} & ended:
        ended -= revived  # What stands below new input gets some: it has not ended after all.
    return ended


def _has_more(dealt: Sequence[Sequence[SplitPosition]]) -> bool:
    """Return whether a source has anything to read."""
    return not all(position.is_finished for positions in dealt for position in positions)


def _ended_before(
    old: Sequence[TaskSnapshot], chain: ChainSpec, graph: ExecutionGraph, ended: set[ChainId]
) -> tuple[OperatorId, ...]:
    """Return the first operators of a chain that goes on which have had their last output.

    They were a chain of their own, and the end had yet to come to those behind: an unaligned
    barrier has overtaken it. What is revived by new input has not ended after all.
    """
    if chain.id in ended or not all(e.source in ended for e in graph.edges if e.target == chain.id):
        return ()
    known = {name for task in old for name in task.operators}
    running = _running(old)
    first = takewhile(lambda name: name not in running, chain.operators)
    return tuple(name for name in first if name in known)


def _running(old: Sequence[TaskSnapshot]) -> set[OperatorId]:
    """Return the operators that have not ended in every subtask."""
    return {
        name
        for task in old
        for name in task.operators
        if not task.is_ended and name not in task.ended
    }


def ended_in_part(tasks: Sequence[TaskSnapshot], graph: ExecutionGraph) -> OperatorId | None:
    """Return the first operator of a chain of which some subtasks have ended, without any cause.

    All above it have: an unaligned barrier has overtaken the end of input on the way to the others.
    Those that have ended had their last output, and would have it again, for a chain ends whole.
    """
    chain_of = {task.id: task.chain for task in graph.tasks}
    ended: dict[ChainId, set[bool]] = {chain.id: set() for chain in graph.chains}
    for task in tasks:
        ended[chain_of[task.task]].add(task.is_ended)
    for chain in graph.chains:
        above = [ended[edge.source] for edge in graph.edges if edge.target == chain.id]
        if above and len(ended[chain.id]) > 1 and all(one == {True} for one in above):
            return chain.operators[0]
    return None


def _was_ended(chain: ChainSpec, known: set[OperatorId], running: set[OperatorId]) -> bool:
    # An operator that is new in the chain has no say: it keeps nothing that the end could set free.
    return not known.isdisjoint(chain.operators) and running.isdisjoint(chain.operators)


def _states(
    old: Sequence[TaskSnapshot], chain: ChainSpec, task: TaskSpec
) -> tuple[StateAssignment, ...]:
    start, end = task.key_groups
    return tuple(
        StateAssignment(snapshot.task, state)
        for snapshot in old
        if (state := snapshot.state) is not None
        and any(table.operator in chain.operators for table in state.tables)
        and max(start, state.key_groups[0]) < min(end, state.key_groups[1])
    )


def _recovered(
    old: Sequence[TaskSnapshot], chain: ChainSpec, task: TaskSpec
) -> tuple[PreparedOutput, ...]:
    if task.subtask != 0:
        return ()
    sink = chain.operators[-1]
    prepared = [
        output for snapshot in old if snapshot.operators[-1] == sink for output in snapshot.prepared
    ]
    return tuple(sorted(prepared, key=lambda output: output.checkpoint_id))
