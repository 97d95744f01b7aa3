"""A pipeline on the bench: push records, move time, look inside, crash it, go on.

A ``Harness`` runs the user's own pipeline in this thread, with the real engine under a clock that
the test moves. Every call returns when nothing is left to do, so there is nothing to wait for and
the same test does the same thing each time.

Source: Flink's operator test harnesses and Kafka Streams' ``TopologyTestDriver``. Deviation: the
whole pipeline runs, with checkpoints, crashes and rescaling.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, Self, cast

from flowsnap.api.pipeline import Pipeline
from flowsnap.api.settings import job_config
from flowsnap.config import Duration, duration_ms
from flowsnap.core.operator import Operator
from flowsnap.errors import ConfigError, FlowsnapError
from flowsnap.state.backend import StateBackend
from flowsnap.state.memory import MemoryBackend
from flowsnap.testing import probe
from flowsnap.testing.capture import Output
from flowsnap.testing.feed import Feed
from flowsnap.testing.local_job import HandClock, LocalJob, members
from flowsnap.testing.probe import Timer
from flowsnap.testing.sources import Aborted, Timed
from flowsnap.testing.substitute import Substitutes, stream_name, unknown

SCRATCH = "/dev/shm"
SHOWN_MAX = 8
_NEVER = "36500d"
_SETTINGS: dict[str, Any] = {
    "workers": 0,
    "checkpoint_interval": _NEVER,
    "checkpoint_timeout": _NEVER,
    "checkpoints_retained": 1_000,
    "batch_linger": "0ms",
    "restart": {"strategy": "none"},
}
_MISSING: Any = object()


class Harness:
    """Runs ``pipeline`` step by step; use it in a ``with`` statement, or ``close`` it.

    Its sources are replaced by what the test pushes, its sinks by ones that can be looked into;
    those named in ``keep`` run for real, and so does every ``TestSource``. ``watch`` names steps,
    or side outputs as ``"<step>/<tag>"``, whose output is wanted as well. ``partitions``: how many
    splits every pushed source has. ``now_ms``: the wall clock at the beginning. ``settings`` are
    those of ``Pipeline.run``. Checkpoints are taken when the test asks for one, and only then.

    An error in the user's code is raised from the call that came upon it; the job has crashed then,
    and ``restore`` goes on from the last checkpoint.

    Raises:
        ConfigError: the pipeline is not complete, or an argument does not fit it.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        parallelism: int = 1,
        keep: Collection[str] = (),
        watch: Iterable[Any] = (),
        backend: Literal["memory", "rocksdb"] = "memory",
        **settings: Any,
    ) -> None:
        if not isinstance(pipeline, Pipeline):
            raise ConfigError(f"Harness: {pipeline!r} is not a pipeline")
        if backend not in {"memory", "rocksdb"}:
            raise ConfigError(f"backend: {backend!r} is neither 'memory' nor 'rocksdb'")
        self.pipeline = pipeline
        self.parallelism = parallelism
        partitions, now_ms = settings.pop("partitions", 1), settings.pop("now_ms", 0)
        self._parts = Substitutes(pipeline, keep=keep, watch=watch, partitions=partitions)
        self._config = job_config(_SETTINGS | settings)
        make = MemoryBackend if backend == "memory" else StateBackend
        self._make_state = cast("Callable[..., StateBackend]", make)
        self._clock = HandClock(now_ms)
        self._checkpoints: list[int] = []
        self._job: LocalJob | None = None
        self._end = ""
        parent = SCRATCH if Path(SCRATCH).is_dir() else None
        self._directory = Path(tempfile.mkdtemp(prefix="flowsnap-harness-", dir=parent))
        self._remove = weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
        try:
            self._start("latest")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"<Harness {self.pipeline.name!r}: {self._end or 'running'}, parallelism "
            f"{self.parallelism}, {self.now_ms} ms, checkpoints {self._checkpoints}>"
        )

    def describe(self) -> list[str]:
        """Return some lines that say how things stand, for whoever looks for what went wrong."""
        lines = [repr(self)]
        for name in self._parts.ledgers:
            found = self.output(name)
            for kind, values in (("committed", found.committed), ("pending", found.pending)):
                if values:
                    lines.append(f"  {name}, {len(values)} {kind}: {shortened(values)}")
        return lines

    def close(self) -> None:
        """Release everything; a second time does nothing."""
        if self._job is not None:
            self._job.crash()
            self._job = None
        self._end = "closed"
        self._remove()

    # --- what goes in -------------------------------------------------------------------------

    def push(
        self, source: str, *values: Any, timestamp: int | None = None, partition: int = 0
    ) -> None:
        """Give ``source`` records, which it reads as one batch.

        ``timestamp`` is their event time in ms, where the source is to know it; for times of their
        own write ``at(ms, value)``. What is pushed to a job that has crashed waits for its restore.

        Raises:
            OperatorError: the user's code has raised; the job has crashed.
            ConfigError: there is no such source or partition, or times are missing.
        """
        feed = self._feed(source, "push", partition)
        entries = list(values)
        if timestamp is not None:
            entries = [one if isinstance(one, Timed) else Timed(timestamp, one) for one in entries]
        settings = feed.event_time
        is_timed = all(isinstance(one, Timed) for one in entries)
        if settings is not None and settings.stamp is None and not is_timed:
            raise ConfigError(f"push: the records of source {source!r} need event times").hint(
                f"push({source!r}, ..., timestamp=1_000), or at(1_000, value) for each"
            )
        if entries:
            feed.push(entries, partition)
        self._settle()

    def watermark(self, source: str, timestamp_ms: int, *, partition: int | None = None) -> None:
        """Promise that ``source`` has no more records at or before ``timestamp_ms``.

        For all its partitions, or for one. A watermark that is behind another changes nothing.

        Raises:
            ConfigError: as ``push``; or what makes the watermarks is a step behind the source.
        """
        feed = self._feed(source, "watermark", partition or 0)
        if not isinstance(timestamp_ms, int) or isinstance(timestamp_ms, bool):
            raise ConfigError(f"watermark: {timestamp_ms!r} is no event time in ms")
        stops = self._parts.stops_at(source)
        if stops:
            raise ConfigError(
                f"watermark: those of source {source!r} end at {stops[0]!r}, which makes its own"
            ).hint("push a record that is late enough: the step's own strategy follows it")
        every = range(len(feed.partitions))
        feed.mark(timestamp_ms, every if partition is None else [partition])
        self._settle()

    def advance(self, duration: Duration) -> None:
        """Move the wall clock on; every timer on the way is called at its own time.

        Raises:
            OperatorError: as ``push``.
        """
        until_ms = self.now_ms + duration_ms(duration, "advance")
        while (due_ms := self._next_timer_ms()) is not None and due_ms < until_ms:
            self._clock.reach(due_ms)
            self._settle()
        self._clock.reach(until_ms)
        self._settle()

    def resume(self, source: str) -> None:
        """Lift the pause that a ``TestSource`` has come to.

        Raises:
            ConfigError: there is no such source, or no pause left.
        """
        if source not in self._parts.test_sources:
            raise unknown("resume", source, self._parts.test_sources)
        self._parts.test_sources[source].resume()
        self._settle()

    def end(self, source: str | None = None) -> None:
        """End the input: of one source, or of all, after which the job finishes and commits.

        Raises:
            OperatorError: as ``push``.
            ConfigError: the job has crashed, or cannot finish because a source goes on.
        """
        self._require_running("end")
        for name in self._parts.feeds if source is None else (source,):
            self._feed(name, "end", 0, is_checked=False).end()
        self._settle()
        if source is None and not self.is_done:
            raise ConfigError("end: the job does not finish, a source that is kept goes on").hint(
                "resume a TestSource that has paused; give a source that ends"
            )

    # --- what is inside, and what comes out ---------------------------------------------------

    @property
    def now_ms(self) -> int:
        """The wall clock, in ms."""
        return self._clock.wall_ms()

    @property
    def checkpoints(self) -> list[int]:
        """The ids of the checkpoints taken so far."""
        return list(self._checkpoints)

    @property
    def is_crashed(self) -> bool:
        """Whether the job is down, and waits for ``restore``."""
        return self._end == "crashed"

    @property
    def is_done(self) -> bool:
        """Whether the job has finished."""
        return self._end == "finished"

    def output(self, name: Any) -> Output:
        """Return all that a sink, or a step that is watched, has got: a list.

        Its ``committed`` are the records that a checkpoint has made visible, its ``pending`` those
        that a crash would take away.

        Raises:
            ConfigError: there is no such sink, or the step is not watched.
        """
        return Output(self._parts.ledgers[self._output(name)].written)

    def take(self, name: Any) -> list[Any]:
        """Return what has come out since the last call, repetitions after a crash included.

        Raises:
            ConfigError: as ``output``.
        """
        return self._parts.ledgers[self._output(name)].take()

    def state(self, operator: str, name: str, key: Any, default: Any = _MISSING) -> Any:
        """Return the state ``name`` of one key.

        Raises:
            ConfigError: the job is down; there is no such step or state; or the key has none, and
                no ``default`` is given.
        """
        states = self.states(operator)
        if name not in states:
            raise unknown(f"state of {operator!r}", name, states)
        if key not in states[name] and default is _MISSING:
            known = ", ".join(sorted(map(repr, states[name]))[:SHOWN_MAX]) or "none"
            raise ConfigError(f"state: key {key!r} has no {name!r} in {operator!r}").hint(
                f"keys that have it: {known}; state(..., default=...) puts up with it"
            )
        return states[name].get(key, default)

    def states(self, operator: str) -> dict[str, dict[Any, Any]]:
        """Return all keyed state of a step: name, then key, then value.

        Raises:
            ConfigError: the job is down, or there is no such step.
        """
        return probe.keyed_states(self._tasks(operator), operator)

    def operator_states(self, operator: str) -> dict[str, list[Any]]:
        """Return all non-keyed state of a step: name, then the values of all subtasks.

        Raises:
            ConfigError: as ``states``.
        """
        return probe.operator_states(self._tasks(operator), operator)

    def timers(self, operator: str) -> list[Timer]:
        """Return the timers of a step that wait, the earliest first.

        Raises:
            ConfigError: as ``states``.
        """
        return probe.timers(self._tasks(operator), operator)

    def event_time(self, operator: str) -> int | None:
        """Return the watermark that a step has been told, the least of its subtasks, or None.

        Raises:
            ConfigError: as ``states``.
        """
        return probe.event_time_ms(self._tasks(operator), operator)

    # --- what may happen to it ----------------------------------------------------------------

    def checkpoint(self) -> int:
        """Take a checkpoint, have the sinks commit, and return its id.

        Raises:
            CheckpointError: it was given up.
            OperatorError: as ``push``.
        """
        job = self._require_running("checkpoint")
        try:
            self._checkpoints.append(job.checkpoint())
        except FlowsnapError:
            self._look_at_end(job)
            raise
        return self._checkpoints[-1]

    def crash(self) -> None:
        """Kill the job: what is not in a checkpoint is gone. Records may be pushed meanwhile.

        Raises:
            ConfigError: it is not running.
        """
        self._require_running("crash").crash()
        self._crashed()

    def restore(self, checkpoint: int | Literal["latest", "fresh"] = "latest") -> None:
        """Start a job that has crashed, from its newest checkpoint, another one, or anew.

        Without a checkpoint it begins anew. What was pushed since the checkpoint is read again.

        Raises:
            ConfigError: the job is running, has finished, or is closed.
            RestoreError: there is no such checkpoint, or the pipeline does not fit it.
            OperatorError: as ``push``.
        """
        if not self.is_crashed:
            raise ConfigError(f"restore: the job is {self._end or 'running'}").hint(
                "crash() it first; rescale(n) does both"
            )
        self._start(checkpoint)

    def rescale(self, parallelism: int) -> None:
        """Go on with other numbers of subtasks, from a checkpoint that is taken now.

        A job that has crashed goes on from its newest checkpoint. Steps that were drawn with a
        ``parallelism`` of their own keep it.

        Raises:
            ConfigError: the job has finished; the pipeline cannot run so wide.
            OperatorError: as ``push``.
        """
        self._parts.definition(parallelism)  # Whether it can run so wide is found before anything.
        if not self.is_crashed:
            self.checkpoint()
            self.crash()
        self.parallelism = parallelism
        self._start("latest")

    # --- underneath ---------------------------------------------------------------------------

    def _start(self, restore: int | str) -> None:
        definition = self._parts.definition(self.parallelism)
        self._end = "crashed"  # until it runs
        if restore == "fresh":
            self._checkpoints.clear()
        elif isinstance(restore, int):
            self._checkpoints = [id for id in self._checkpoints if id <= restore]
        self._job = LocalJob(
            self._directory,
            definition,
            self._clock,
            self._config,
            restore=restore,
            make_state=self._make_state,
        )
        self._end = ""
        self._settle()

    def _settle(self) -> None:
        """Run until there is nothing to do; an ``ABORT`` is a crash that was asked for."""
        if self._job is None or self._end:
            return
        try:
            self._job.settle()
        except FlowsnapError as error:
            self._job.crash()
            self._crashed()
            if not isinstance(error.__cause__, Aborted):
                raise
        else:
            self._look_at_end(self._job)

    def _look_at_end(self, job: LocalJob) -> None:
        if job.is_done:
            self._end = "finished"
        elif not job.tasks():
            self._crashed()

    def _crashed(self) -> None:
        self._end = "crashed"
        for ledger in self._parts.ledgers.values():
            ledger.drop(is_prepared_too=False)

    def _next_timer_ms(self) -> int | None:
        if self._job is None or self._end:
            return None
        running = members(self._job.tasks())
        due = [one.next_processing_time_ms() for _, _, one in running if _is_clocked(one)]
        return min((at for at in due if at is not None and at > self.now_ms), default=None)

    def _feed(self, source: str, what: str, partition: int, *, is_checked: bool = True) -> Feed:
        if self._end in {"closed", "finished"}:
            self._refuse(what)
        if source in self._parts.test_sources:
            raise ConfigError(f"{what}: {source!r} is a TestSource, which has its values")
        if source not in self._parts.feeds:
            raise unknown(what, source, self._parts.feeds)
        feed = self._parts.feeds[source]
        if is_checked and feed.is_ended:
            raise ConfigError(f"{what}: source {source!r} has ended")
        if not 0 <= partition < len(feed.partitions):
            raise ConfigError(f"{what}: source {source!r} has no partition {partition}").hint(
                f"it has {len(feed.partitions)}; Harness(..., partitions=n) makes more"
            )
        return feed

    def _output(self, output: Any) -> str:
        name = stream_name(output)
        if name not in self._parts.ledgers:
            if name.partition("/")[0] in self._parts.operators:
                raise ConfigError(f"output: {name!r} is not a sink, and is not watched").hint(
                    f"Harness(pipeline, watch=[{name!r}])"
                )
            raise unknown("output", name, self._parts.ledgers)
        return name

    def _tasks(self, operator: str) -> Sequence[Any]:
        job = self._require_running("looking inside")
        steps = [n for n, code in self._parts.drawn.code.items() if isinstance(code, Operator)]
        if operator not in steps:
            raise unknown("step", operator, steps)
        return job.tasks(operator)

    def _require_running(self, what: str) -> LocalJob:
        if self._job is None or self._end:
            self._refuse(what)
        return self._job

    def _refuse(self, what: str) -> NoReturn:
        advice = {
            "crashed": "restore() it first",
            "finished": "its outputs are there still; make a new Harness for more",
        }
        raise ConfigError(f"{what}: the job is {self._end}").hint(
            advice.get(self._end, "make a new Harness")
        )


def shortened(values: Sequence[Any]) -> str:
    """Return the last of some values, as text."""
    text = ", ".join(map(repr, values[-SHOWN_MAX:]))
    return text if len(values) <= SHOWN_MAX else f"..., {text}"


def _is_clocked(operator: Any) -> bool:
    return isinstance(operator, Operator) and operator.uses_processing_time
