"""The hot path: a batch through the fused operators of one task.

Neighbouring stateless operators become one iterator chain (``map(f, filter(p, map(g, values)))``),
so that between two of them a record costs no call, no list and no object of ours. The engine
counts records once per batch. When the user's code raises, the failing record is found afterwards
from how far the chain had consumed its input: nothing is paid for that while all goes well.

This is one of the two places with ``except Exception``: it stands around user code.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from operator import length_hint
from typing import Any

from flowsnap.core.element import Batch
from flowsnap.core.ids import OperatorId
from flowsnap.core.manifest import OperatorStateValues
from flowsnap.core.operator import LazyOperator, Operator, Sink
from flowsnap.core.watermark import MAX_WATERMARK, MIN_WATERMARK
from flowsnap.errors import FlowsnapError, OperatorError
from flowsnap.runtime.context import SideBuffer, TaskContext

Named = tuple[OperatorId, Operator | Sink]


class Counter:
    """Records in and out of one operator since the attempt began."""

    __slots__ = ("records_in", "records_out")

    def __init__(self) -> None:
        self.records_in = 0
        self.records_out = 0


class Stage:
    """One operator, or several lazy ones composed; ``counters`` has an entry for each."""

    def __init__(self, members: Sequence[tuple[OperatorId, Operator]], subtask: int) -> None:
        self.names = [name for name, _ in members]
        self.operators = [operator for _, operator in members]
        self.counters = [Counter() for _ in members]
        self.subtask = subtask
        self._is_fused = len(members) > 1

    def process(self, batch: Batch, port: int = 0) -> Batch:
        """Return what comes out for one batch of input ``port``.

        Raises:
            OperatorError: the user's code raised.
        """
        try:
            if self._is_fused:
                result = self._fused(batch)
            elif port:
                result = self.operators[0].process_port(batch, port)
            else:
                result = self.operators[0].process(batch)
        except Exception as error:
            raise self._explain(error, batch) from error
        self._count(len(batch), len(result))
        return result

    def _fused(self, batch: Batch) -> Batch:
        if batch.timestamps is not None:
            for operator in self.operators:
                batch = operator.process(batch)
            return batch
        values: Iterable[Any] = iter(batch.values)
        self.operators[0].cursor = values
        for operator in self.operators:
            assert isinstance(operator, LazyOperator)
            values = operator.lazy(values)
        return Batch(list(values))

    def _count(self, records_in: int, records_out: int) -> None:
        last = self.counters[-1]
        for counter in self.counters:
            # Only the last of a stage may change the number of records: see _stages.
            counter.records_in += records_in
            counter.records_out += records_in if counter is not last else records_out

    def _explain(self, error: Exception, batch: Batch) -> FlowsnapError:
        if isinstance(error, FlowsnapError):
            return error
        index = _failed_index(self.operators, batch)
        name = self.names[0] if not self._is_fused else self._culprit(batch, index)
        where = "" if index is None else f" on record {index + 1} of a batch of {len(batch)}"
        what = "" if index is None else f" ({describe(batch.values[index])})"
        return OperatorError(
            f"operator {name!r}, subtask {self.subtask}: "
            f"{type(error).__name__}: {error}{where}{what}",
            operator=name,
            subtask=self.subtask,
            record=where.strip() + what,
        )

    def _culprit(self, batch: Batch, index: int | None) -> OperatorId:
        """Name the fused operator that fails, by giving it the failing record once more."""
        values: list[Any] = [] if index is None else [batch.values[index]]
        for name, operator in zip(self.names, self.operators, strict=True):
            assert isinstance(operator, LazyOperator)
            try:
                values = list(operator.lazy(values))
            except Exception:
                return name
        return OperatorId(" -> ".join(self.names))


class Chain:
    """The operators of one task: after its source and up to its sink, where it has them."""

    def __init__(
        self,
        members: Sequence[Named],
        subtask: int,
        entries: Collection[OperatorId] = (),
        ended: tuple[OperatorId, ...] = (),
    ) -> None:
        """``entries``: operators in the middle that ``process_at`` will be called for.

        ``ended``: the first ones, if they have had their last output: they have none any more.
        """
        self.ended = ended
        last = members[-1] if members else None
        self.sink = last[1] if last is not None and isinstance(last[1], Sink) else None
        self.sink_counter = Counter()
        self._sink_name = last[0] if last is not None else OperatorId("")
        self._subtask = subtask
        self._members = [(n, o) for n, o in members if isinstance(o, Operator)]
        self._stages = [Stage(part, subtask) for part in _stages(self._members, entries)]
        self._first_stage = self._index_of_members()
        self._contexts: list[TaskContext] = []
        self._generators = _places(self._members, "generates_watermarks")
        self._clocked = _places(self._members, "uses_processing_time")
        self._asynchronous = _places(self._members, "is_asynchronous")
        self._announced: dict[int, int | None] = dict.fromkeys(self._generators)
        self._has_ended = False

    def open(
        self, contexts: dict[OperatorId, TaskContext], watermarks: Mapping[OperatorId, int]
    ) -> None:
        """Open every operator; ``contexts`` has one for each.

        ``watermarks`` has the event time that each had reached at the restored cut. An operator
        that is new in the pipeline begins where the one before it stands.
        """
        watermark_ms = watermarks.get(next(iter(contexts), OperatorId("")), MIN_WATERMARK)
        self._contexts = [contexts[name] for name, _ in self._members]
        for (name, operator), context in zip(self._members, self._contexts, strict=True):
            context.watermark_ms = watermark_ms = watermarks.get(name, watermark_ms)
            if name in self.ended:
                context.watermark_ms = MAX_WATERMARK
            with user_code(name, self._subtask):
                operator.open(context)
            if operator.generates_watermarks:
                own = operator.watermark_ms
                watermark_ms = MIN_WATERMARK if own is None else own

    def process(self, batch: Batch, port: int = 0) -> Batch | None:
        """Take one batch through the chain; None when a sink took it, or nothing came out."""
        return self._run(batch, 0, port)

    def process_at(self, operator: OperatorId, batch: Batch, port: int) -> Batch | None:
        """Take one batch through the part of the chain that begins with ``operator``."""
        names = [stage.names[0] for stage in self._stages]
        return self._run(batch, names.index(operator) if operator in names else len(names), port)

    # --- time ---------------------------------------------------------------------------------

    @property
    def generates_watermarks(self) -> bool:
        """Whether event time begins anew in this chain, so that none passes through it."""
        return bool(self._generators)

    def is_idle(self, is_input_idle: bool) -> bool:
        """Return whether what leaves holds event time back no longer.

        That is for the last operator to say that generates watermarks; one that delays them goes
        by what comes in to it.
        """
        for index in reversed(self._generators):
            operator = self._members[index][1]
            if not (operator.is_idle and operator.delays_watermarks):
                return operator.is_idle
        return is_input_idle

    def generated(self) -> Iterator[Batch | int]:
        """Yield what comes out because an operator of this chain has a newer watermark.

        The last thing yielded is that watermark, if it leaves the chain. Behind the end of input
        there is none: that was the last one.
        """
        for member in () if self._has_ended else self._generators:
            watermark_ms = self._members[member][1].watermark_ms
            if watermark_ms is not None and watermark_ms != self._announced[member]:
                self._announced[member] = watermark_ms
                yield from self.advance(watermark_ms, member + 1)

    def advance(self, watermark_ms: int, member: int = 0) -> Iterator[Batch | int]:
        """Yield what comes out when event time reaches ``watermark_ms`` at an operator.

        It goes on to those behind it, up to one that generates watermarks itself. The last thing
        yielded is the watermark, if it leaves the chain. One that an operator had reached before a
        restart passes it by, and what the last operator had reached leaves in its place: event time
        never goes back.
        """
        for index in range(member, len(self._members)):
            name, operator = self._members[index]
            context = self._contexts[index]
            if watermark_ms > context.watermark_ms:
                context.watermark_ms = watermark_ms
                with user_code(name, self._subtask):
                    yield from self._rest(operator.advance(watermark_ms), index)
            if operator.generates_watermarks:
                return
        is_behind = member < len(self._members)
        yield max(watermark_ms, self._contexts[-1].watermark_ms) if is_behind else watermark_ms

    def on_processing_time(self, now_ms: int) -> Iterator[Batch]:
        """Yield what comes out because the wall clock has reached ``now_ms``."""
        for index in self._clocked:
            name, operator = self._members[index]
            with user_code(name, self._subtask):
                yield from self._rest(operator.on_processing_time(now_ms), index)
        for context in self._contexts:
            with user_code(context.operator, self._subtask):
                context.sweep(now_ms)

    def next_processing_time_ms(self) -> int | None:
        """Return when the wall clock matters next to an operator."""
        times = []
        for index in self._clocked:
            times.append(self._members[index][1].next_processing_time_ms())
        for context in self._contexts:
            if context.sweeps:
                times.append(context.next_sweep_ms())
        return min((at for at in times if at is not None), default=None) if times else None

    # --- beside the main output ---------------------------------------------------------------

    def side_outputs(self) -> list[tuple[str, SideBuffer]]:
        """Return the side outputs, each under ``<operator>/<tag>``."""
        return [
            (f"{context.operator}/{tag}", buffer)
            for context in self._contexts
            for tag, buffer in context.side_outputs.items()
        ]

    def watermarks(self) -> dict[OperatorId, int]:
        """Return the event time that each operator has reached, but for its beginning and end."""
        return {
            context.operator: context.watermark_ms
            for context in self._contexts
            if MIN_WATERMARK < context.watermark_ms < MAX_WATERMARK
        }

    def operator_states(self) -> tuple[OperatorStateValues, ...]:
        """Return the non-keyed states of all operators as they are now."""
        return tuple(state for context in self._contexts for state in context.operator_states())

    # --- asynchronous operators ---------------------------------------------------------------

    def can_accept(self) -> bool:
        """Return whether every operator takes another batch now."""
        return all(self._members[index][1].can_accept() for index in self._asynchronous)

    def poll(self) -> Iterator[Batch]:
        """Yield the outputs of asynchronous operators that have become ready."""
        for index in self._asynchronous:
            name, operator = self._members[index]
            with user_code(name, self._subtask):
                yield from self._rest(operator.poll(), index)

    @property
    def is_asynchronous(self) -> bool:
        """Whether ``poll`` has to be called."""
        return bool(self._asynchronous)

    @property
    def is_holding(self) -> bool:
        """Whether an asynchronous operator holds records that have yet to leave."""
        return any(not self._members[index][1].is_idle for index in self._asynchronous)

    # --- barriers and the end -----------------------------------------------------------------

    def before_barrier(self) -> Iterator[Batch]:
        """Yield what operators keep outside state, each taken through the rest of the chain."""
        for index, (name, operator) in enumerate(self._members):
            with user_code(name, self._subtask):
                yield from self._rest(operator.before_barrier(), index)

    def end_input(self) -> Iterator[Batch]:
        """Yield the last output of every operator, first to last, through the rest of the chain.

        Event time is advanced to its end before. An empty batch says: ask again.
        """
        for member in (0, *(generator + 1 for generator in self._generators)):
            yield from (
                one for one in self.advance(MAX_WATERMARK, member) if isinstance(one, Batch)
            )
        for index, (name, operator) in enumerate(self._members):
            if name not in self.ended:
                with user_code(name, self._subtask):
                    yield from self._rest(operator.end_input(), index)
        self._has_ended = True

    def close(self) -> None:
        """Close every operator and the sink, also when one of them fails at it."""
        first: Exception | None = None
        for operator in [o for _, o in self._members] + ([self.sink] if self.sink else []):
            try:
                operator.close()
            except Exception as error:
                first = first or error
        if first is not None:
            raise first

    def counters(self) -> list[tuple[OperatorId, Counter]]:
        """Return the counters of every operator, in order."""
        found = [
            pair for stage in self._stages for pair in zip(stage.names, stage.counters, strict=True)
        ]
        return found + ([(self._sink_name, self.sink_counter)] if self.sink else [])

    def counted(self) -> dict[OperatorId, dict[str, int]]:
        """Return what operators count themselves, by name; what is zero is left out."""
        return {
            context.operator: {
                name: counter.value for name, counter in context.counters.items() if counter.value
            }
            for context in self._contexts
        }

    def _run(self, batch: Batch, stage: int, port: int = 0) -> Batch | None:
        for index in range(stage, len(self._stages)):
            batch = self._stages[index].process(batch, port)
            port = 0
            if not batch.values:
                return None
        if self.sink is None:
            return batch
        self._write(self.sink, batch)
        return None

    def _write(self, sink: Sink, batch: Batch) -> None:
        with user_code(self._sink_name, self._subtask):
            sink.write(batch)
        self.sink_counter.records_in += len(batch)
        self.sink_counter.records_out += len(batch)

    def _rest(self, batches: Iterable[Batch], member: int) -> Iterator[Batch]:
        stage, counter = self._first_stage[member]
        for batch in batches:
            counter.records_out += len(batch)
            # An empty batch leaves as one that any edge takes, one by key too.
            rest = self._run(batch, stage + 1) if batch.values else Batch([], None, [])
            if rest is not None:
                yield rest

    def _index_of_members(self) -> list[tuple[int, Counter]]:
        return [
            (index, counter)
            for index, stage in enumerate(self._stages)
            for counter in stage.counters
        ]


class user_code:  # noqa: N801 - it reads as a statement
    """Turn what the user's code raises into an OperatorError that says where."""

    __slots__ = ("_operator", "_subtask")

    def __init__(self, operator: OperatorId, subtask: int) -> None:
        self._operator = operator
        self._subtask = subtask

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, FlowsnapError) or not isinstance(error, Exception):
            return
        raise OperatorError(
            f"operator {self._operator!r}, subtask {self._subtask}: "
            f"{type(error).__name__}: {error}",
            operator=self._operator,
            subtask=self._subtask,
        ) from error


def _places(members: Sequence[tuple[OperatorId, Operator]], trait: str) -> list[int]:
    return [index for index, (_, operator) in enumerate(members) if getattr(operator, trait)]


def describe(record: Any) -> str:
    """Return what kind of record this is, without its content, which may be secret."""
    kind = type(record).__name__
    article = "an" if kind[0] in "aeiouAEIOU" else "a"
    try:
        return f"{article} {kind} of length {len(record)}"
    except TypeError:
        return f"{article} {kind}"


def _failed_index(operators: Sequence[Operator], batch: Batch) -> int | None:
    """Return which record of ``batch`` was being processed, if the operators let us know.

    A batch with event times goes operator by operator: those before the failing one have consumed
    all of it, those behind it the whole batch before, so the least index is that of the failure.
    """
    cursors = [operator.cursor for operator in operators if operator.cursor is not None]
    index = min((len(batch) - length_hint(cursor) - 1 for cursor in cursors), default=-1)
    return index if 0 <= index < len(batch) else None


def _stages(
    members: Sequence[tuple[OperatorId, Operator]], entries: Collection[OperatorId]
) -> list[list[tuple[OperatorId, Operator]]]:
    """Group operators into stages: only lazy ones are fused, and a change of count ends a stage."""
    stages: list[list[tuple[OperatorId, Operator]]] = []
    is_open = False
    for name, operator in members:
        if is_open and isinstance(operator, LazyOperator) and name not in entries:
            stages[-1].append((name, operator))
        else:
            stages.append([(name, operator)])
        is_open = isinstance(operator, LazyOperator) and operator.shape == "map"
    return stages
