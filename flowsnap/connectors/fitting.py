"""Records that their sink could not take: they leave beside the others as dead letters.

``stream.sink(sink, dead_letters=...)`` draws a step in front of the sink, in the same task, that
asks the sink about every batch (``Sink.misfits``). What does not fit leaves as a DeadLetter, ahead
of the barrier that comes behind it: so it is of the same checkpoint as the records beside it, and
its own sink makes it exactly-once as it does any record.

What only the store can tell, such as a constraint, is not known here: the store sees a record when
its checkpoint is complete, and nothing can be added to that any more.

Source: Kafka Connect, "errors.tolerance" and its dead letter queue (KIP-298); Flink, "Side
Outputs". Deviation: Connect writes a record into its queue at once, and so may write it again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import msgspec

from flowsnap.connectors.dead_letters import DEAD_LETTER, DeadLetter, DeadLetters
from flowsnap.connectors.rows import describe
from flowsnap.connectors.typed import UNENCODABLE, encode_hook
from flowsnap.core.element import Batch
from flowsnap.core.ids import AttemptId, OperatorId
from flowsnap.core.operator import Misfits, Operator, OperatorContext, Sink, SinkContext, select
from flowsnap.errors import ConfigError, OperatorError

OF_A_RECORD: tuple[type[Exception], ...] = (
    ArithmeticError, AttributeError, LookupError, TypeError, ValueError,
)  # fmt: skip
"""What a user's function raises about a record that is not what it expects."""


class Fitting(Operator):
    """Lets records pass that ``sink``, called ``operator``, can take; the others leave beside.

    The source of a dead letter is the sink and its subtask, its offset how many records had come
    there before. They are counted over restarts; with another parallelism all go on from the
    highest count, so that no two letters are told to be the same.
    """

    COUNTER: ClassVar[str] = DeadLetters.COUNTER
    has_dead_letters: ClassVar[bool] = True

    def __init__(self, sink: Sink, operator: str) -> None:
        self.sink = sink
        self.operator = operator

    def open(self, context: OperatorContext) -> None:
        self._place = (context.subtask, context.parallelism)
        self._source = f"{self.operator}/{context.subtask}"
        self._beside = context.side_output(DEAD_LETTER)
        self._letters = context.counter(self.COUNTER)
        self._counted = context.operator_state("records", "union")
        self._count = _count_of(self._place, self._counted.get())
        # A copy of the template: it is made ready as a sink is, and never opened.
        found = copy.copy(self.sink).misfits(_sink_context(context, self.operator))
        if found is None:
            raise ConfigError(f"sink {self.operator!r} does not tell which records it can take")
        self._misfits = found

    def process(self, batch: Batch) -> Batch:
        first, self._count = self._count, self._count + len(batch)
        misfits = self._misfits(batch)
        if not misfits:
            return batch
        self._letters.increase(len(misfits))
        self._beside.add_all(
            [
                DeadLetter(raw_of(batch.values[index]), reason, self._source, first + index)
                for index, reason in misfits.items()
            ],
            None if batch.timestamps is None else [batch.timestamps[index] for index in misfits],
        )
        return select(batch, [index not in misfits for index in range(len(batch))])

    def before_barrier(self) -> Iterable[Batch]:
        self._counted.update([[*self._place, self._count]])
        return ()


def tried(attempt: Callable[[Batch], object], errors: tuple[type[Exception], ...] = ()) -> Misfits:
    """Return what tells misfits by trying: a batch as a whole, and its records if that fails.

    ``attempt`` raises an OperatorError, or one of ``errors``, whose text must not show a value, or
    what a user's function raises, of which the class is told alone. What fails together and not
    alone is left to the sink.
    """
    refusals: tuple[type[Exception], ...] = (OperatorError, *errors, *OF_A_RECORD)

    def fits(batch: Batch) -> str | None:
        try:
            attempt(batch)
        except ConfigError:
            raise
        except refusals as error:
            return _reason(error, errors)
        return None

    def misfits(batch: Batch) -> dict[int, str]:
        if fits(batch) is None:
            return {}
        reasons = enumerate(fits(one) for one in _records(batch))
        return {index: reason for index, reason in reasons if reason is not None}

    return misfits


def raw_of(value: Any) -> str:
    """Return a record as JSON, or as it represents itself where it has no form there."""
    try:
        return msgspec.json.encode(value, enc_hook=encode_hook).decode()
    except UNENCODABLE:
        pass
    try:
        return repr(value).encode("utf-8", "backslashreplace").decode()
    except (ValueError, RecursionError):  # A number of too many digits, for one.
        return describe(value)


def _reason(error: Exception, errors: tuple[type[Exception], ...]) -> str:
    if isinstance(error, OperatorError) and error.record:
        lead, reason = error.record.partition("record")[0], str(error).partition(error.record)[2]
        return f"{lead}it{reason}" if lead else reason.strip()
    if isinstance(error, (OperatorError, *errors)):
        return str(error)
    return f"{type(error).__name__} in a function of the sink"


def _records(batch: Batch) -> Iterable[Batch]:
    times, keys = batch.timestamps, batch.keys
    for index, value in enumerate(batch.values):
        yield Batch(
            [value],
            None if times is None else [times[index]],
            None if keys is None else [keys[index]],
        )


def _count_of(place: tuple[int, int], known: list[Any]) -> int:
    """Return where a subtask goes on counting: at its own count, or with others at the highest."""
    own = [count for subtask, parallelism, count in known if (subtask, parallelism) == place]
    return own[0] if own else max((count for *_, count in known), default=0)


def _sink_context(context: OperatorContext, operator: str) -> SinkContext:
    return SinkContext(
        job=context.job,
        run_id="",
        operator=OperatorId(operator),
        subtask=context.subtask,
        parallelism=context.parallelism,
        attempt=AttemptId(context.attempt),
    )
