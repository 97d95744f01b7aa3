"""The contracts between the engine and what runs in it: operator, state, source, sink.

An object in a pipeline is a *template*: it holds what the user gave (functions, paths, names), can
be pickled, and is never run itself. Each task of each attempt runs a copy of its own, and all that
changes while it runs is made in ``open``. Everything here is called from the one thread of the
task, between two looks at the network; nothing here may wait.

Batches, not records: the engine hands over n records at a time and never touches one of them. The
lists of a batch are shared with other consumers and must not be changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, compress, repeat
from typing import Any, ClassVar

import msgspec

from flowsnap.core.context import MISSING, KeyedTable, OperatorContext
from flowsnap.core.element import Batch
from flowsnap.core.event_time import EventTime
from flowsnap.core.ids import AttemptId, CheckpointId, OperatorId

__all__ = [
    "MISSING",
    "KeyedTable",
    "LazyOperator",
    "Misfits",
    "Operator",
    "OperatorContext",
    "Sink",
    "SinkContext",
    "Source",
    "Split",
    "SplitReader",
    "Submission",
    "select",
]


class Operator:
    """One step of a dataflow: a batch in, a batch out.

    Only ``process`` must be defined. The class attributes tell the engine which of the other hooks
    it has to call at all: what an operator does not use costs it nothing.
    """

    cursor: Any = None
    """The iterator over ``batch.values`` that ``process`` is consuming, so that the engine can tell
    which record the user's function failed on. Set by ``process``; costs nothing per record."""

    generates_watermarks: ClassVar[bool] = False
    """Whether event time begins here: what comes from upstream ends here, and after every batch the
    engine reads ``watermark_ms`` and ``is_idle``."""

    watermark_ms: int | None = None
    """Of an operator that generates watermarks: the newest one, or None before the first."""

    is_idle: bool = False
    """Of an operator that generates watermarks: whether it holds event time back no longer."""

    delays_watermarks: ClassVar[bool] = False
    """Of an operator that generates watermarks: whether they are those from upstream, each told
    again once what came before it has left. It is idle where its input is and nothing is held."""

    uses_processing_time: ClassVar[bool] = False
    """Whether the engine calls ``on_processing_time``."""

    needs_event_time: bool = False
    """Whether it can do nothing with records that have no event time."""

    is_asynchronous: ClassVar[bool] = False
    """Whether outputs come later than their inputs: the engine asks ``can_accept`` before each
    batch, and calls ``poll`` in every round."""

    def open(self, context: OperatorContext) -> None:
        """Make everything that changes while the operator runs; called once, before all else."""

    def process(self, batch: Batch) -> Batch:
        """Return what comes out for one batch (possibly an empty batch)."""
        raise NotImplementedError(f"{type(self).__name__}.process")

    def process_port(self, batch: Batch, port: int) -> Batch:
        """Return what comes out for one batch of input ``port``; the first input is 0."""
        return self.process(batch)

    def advance(self, watermark_ms: int) -> Iterable[Batch]:
        """Yield what comes out when event time reaches ``watermark_ms``, before it goes on."""
        return ()

    def on_processing_time(self, now_ms: int) -> Iterable[Batch]:
        """Yield what comes out when the wall clock has reached ``now_ms``."""
        return ()

    def next_processing_time_ms(self) -> int | None:
        """Return when ``on_processing_time`` is wanted next; None: never, as things are."""
        return None

    def can_accept(self) -> bool:
        """Return whether another batch may be given now (see ``is_asynchronous``)."""
        return True

    def poll(self) -> Iterable[Batch]:
        """Yield the outputs that have become ready (see ``is_asynchronous``)."""
        return ()

    def before_barrier(self) -> Iterable[Batch]:
        """Yield what must leave before a snapshot is taken, because it is kept outside state.

        The last chance to update operator state for the snapshot.
        """
        return ()

    def end_input(self) -> Iterable[Batch]:
        """Yield what comes out at the end of input; called once, and not again after a restore.

        Event time has been advanced to its end before. An empty batch says: not yet, ask again.
        """
        return ()

    def close(self) -> None:
        """Release what ``open`` took; called once, also after a failure."""


class LazyOperator(Operator):
    """A stateless operator that the engine composes with its neighbours into one iterator chain.

    ``lazy`` maps an iterable of values to an iterable of values and must consume it in order, one
    output after its input. ``shape`` says how many values come out for one: it decides how
    timestamps follow, and where the engine counts records.
    """

    shape: ClassVar[str] = (
        "map"  # "map": exactly one; "filter": the same one or none; "flat_map": any number
    )

    def lazy(self, values: Iterable[Any]) -> Iterable[Any]:
        """Return the outputs for ``values``, computed as they are asked for."""
        raise NotImplementedError(f"{type(self).__name__}.lazy")

    def process(self, batch: Batch) -> Batch:
        """Apply ``lazy`` to one batch; event times follow their records."""
        self.cursor = iter(batch.values)
        if batch.timestamps is None:
            return Batch(list(self.lazy(self.cursor)))
        if self.shape == "map":
            return Batch(list(self.lazy(self.cursor)), batch.timestamps)
        outputs = [list(self.lazy((value,))) for value in self.cursor]
        times = chain.from_iterable(map(repeat, batch.timestamps, map(len, outputs)))
        return Batch(list(chain.from_iterable(outputs)), list(times))


def select(batch: Batch, mask: Sequence[Any]) -> Batch:
    """Return the records of ``batch`` whose entry in ``mask`` (of the same length) is true."""
    return Batch(
        list(compress(batch.values, mask)),
        None if batch.timestamps is None else list(compress(batch.timestamps, mask)),
        None if batch.keys is None else list(compress(batch.keys, mask)),
    )


class Split(msgspec.Struct, frozen=True):
    """A part of a source's input that one reader reads in order: a file, a range, a partition.

    ``id`` is its identity over restarts. ``payload`` is what the reader needs to open it: plain
    msgpack values. ``size`` is how much there is, in the unit of ``SplitReader.progress``.
    """

    id: str
    payload: dict[str, Any] = {}
    size: int | None = None


class SplitReader:
    """Reads one split, from an exact position."""

    def read(self, limit: int) -> Batch | None:
        """Return about ``limit`` further records; an empty batch: none now; None: the end."""
        raise NotImplementedError(f"{type(self).__name__}.read")

    def position(self) -> Any:
        """Return where the next ``read`` goes on: plain msgpack values (int, str, list, dict)."""
        raise NotImplementedError(f"{type(self).__name__}.position")

    def progress(self) -> int | None:
        """Return how much of the split has been read, in the unit of ``Split.size``."""
        return None

    def wait_ms(self) -> int:
        """Return in how many ms to ask again after an empty batch."""
        return 10

    def committed(self, position: Any) -> None:
        """Take note that a checkpoint which holds ``position`` is complete.

        What lies before it is not read again, unless the job goes back to an older checkpoint by
        hand. Called only if ``Source.is_told_of_checkpoints``; some positions may be left out.
        """

    def close(self) -> None:
        """Release what is open."""


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """What a source or sink is told in the submitting process, before any task runs.

    ``is_fresh``: the job starts without a checkpoint. ``run_id`` identifies this life of the job:
    it is new at a fresh start and kept over restores. ``former_run_ids`` are those of its earlier
    lives. ``restored_from``: what these lives have committed after that checkpoint is written anew;
    0: all of it, for the job goes on from another one's savepoint.
    """

    job: str
    operator: OperatorId
    job_directory: str
    run_id: str
    is_fresh: bool
    former_run_ids: tuple[str, ...] = ()
    restored_from: CheckpointId | None = None


class Source:
    """Where records come from."""

    bounded: bool = True

    discovers: bool = True
    """Whether ``splits`` may find more at a restart (new files, say). Where not, the splits of a
    restored checkpoint are all there are, whatever the parallelism is now."""

    is_told_of_checkpoints: ClassVar[bool] = False
    """Whether the engine calls ``SplitReader.committed``."""

    has_dead_letters: bool = False
    """Whether there may be ``connectors.dead_letters.DeadLetter`` among its records: a step that
    tells them apart is then drawn behind it."""

    event_time: EventTime | None = None
    """How its splits tell event time, if they do; set by ``Pipeline.source``."""

    def splits(self, parallelism: int) -> list[Split]:
        """Return all splits, in a stable order; called in the submitting process.

        Raises:
            ConfigError: the input is missing or unreadable.
        """
        raise NotImplementedError(f"{type(self).__name__}.splits")

    def splits_after(self, parallelism: int, known: Sequence[tuple[Split, Any]]) -> Sequence[Split]:
        """Return all splits of a job that goes on from a checkpoint; as ``splits``, else.

        ``known``: those that the checkpoint holds, each with its position.
        """
        if known and not self.discovers:
            return [split for split, _ in known]
        return self.splits(parallelism)

    def open_split(self, split: Split, position: Any) -> SplitReader:
        """Return a reader of ``split`` that goes on at ``position`` (None: from its beginning)."""
        raise NotImplementedError(f"{type(self).__name__}.open_split")


class SinkContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a sink knows of where it runs; handed to ``open``."""

    job: str
    run_id: str
    operator: OperatorId
    subtask: int
    parallelism: int
    attempt: AttemptId


Misfits = Callable[[Batch], dict[int, str]]
"""Which records of a batch can a sink not take: why not, by index, in order, without values."""


class Sink:
    """Where records go.

    A sink that commits is exactly-once: ``write`` collects, ``prepare`` makes what was written
    since the last checkpoint durable but invisible and returns a *committable* (plain msgpack
    values, kept in the manifest), ``commit`` makes it visible once the checkpoint is complete. A
    committable may be committed several times: again after a restore, for one. One that never
    becomes part of a complete checkpoint is never committed; ``recover`` removes what it left
    behind.
    """

    def on_submit(self, submission: Submission) -> None:
        """Check and prepare the target, in the submitting process, before any task runs.

        Raises:
            ConfigError: the target cannot take the output.
        """

    def on_finish(self) -> None:
        """Take note, in the submitting process, that the job has ended and committed everything."""

    def misfits(self, context: SinkContext) -> Misfits | None:
        """Return what tells the records that ``write`` would fail on; None: nothing does.

        Called in place of ``open``, on a copy that is asked for nothing else; ``context`` does not
        have the ``run_id``. What it returns is shown each batch before the sink gets it, where
        dead letters are asked for: records that do not fit never come to the sink.
        """
        return None

    def open(self, context: SinkContext) -> None:
        """Make everything that changes while the sink runs."""

    def write(self, batch: Batch) -> None:
        """Take the records of one batch."""
        raise NotImplementedError(f"{type(self).__name__}.write")

    def prepare(self, checkpoint_id: CheckpointId) -> Any:
        """Make what was written since the last call durable; return its committable, or None."""
        return None

    def commit(self, committables: Sequence[Any]) -> bool | None:
        """Make prepared output visible, durably; a repeat changes nothing.

        False: it is under way. The engine then asks again soon, with the same committables, until
        the answer is another or an error; records go on to come in meanwhile.
        """
        return None

    def can_accept(self) -> bool:
        """Return whether another batch may be given while a commit is under way."""
        return True

    def recover(self, committables: Sequence[Any]) -> None:
        """Commit what the restored checkpoint holds, and remove what older attempts left.

        Called on subtask 0 only, after ``open`` and before any ``write``; with an empty list at a
        fresh start. It is done when it returns: nobody asks again.
        """
        if self.commit(committables) is False:
            raise NotImplementedError(f"{type(self).__name__}.recover has to wait for its commit")

    def close(self) -> None:
        """Release what is open; what was written but not prepared is dropped."""
