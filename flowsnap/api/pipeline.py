"""Pipelines: where streams begin, and how they are run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from flowsnap.api.drawing import Drawing, Input, Request, check_name, check_parallelism
from flowsnap.api.invariants import invariant_check
from flowsnap.api.settings import job_config
from flowsnap.api.stream import Stream
from flowsnap.api.timed import timed_source
from flowsnap.bucket.url import ObjectUrl
from flowsnap.config import Duration
from flowsnap.core.event_time import EventTime, Strategy
from flowsnap.core.graph import OperatorKind, validate
from flowsnap.core.operator import Source
from flowsnap.core.restore import Allowed
from flowsnap.errors import ConfigError
from flowsnap.runtime.definition import PipelineDefinition
from flowsnap.runtime.status import JobResult
from flowsnap.storage.object_url import StateDir, as_state_dir

if TYPE_CHECKING:
    from flowsnap.api.looped import KeyedLoop, Loop
    from flowsnap.runtime.job import JobHandle
    from flowsnap.snapshot.invariant import Invariant
    from flowsnap.snapshot.snapshot import Snapshot

T = TypeVar("T")
C = TypeVar("C", bound="Callable[[Snapshot], object]")

OnViolation = Literal["alert", "fail"]

Restore = Literal["latest", "fresh"] | int | str | StateDir
"""What a run begins with: the newest complete checkpoint, nothing, the checkpoint of that id, or
the savepoint at that path or URL."""


class Pipeline:
    """A dataflow that a job runs: draw it with streams, then ``run`` it.

    ``name`` is the name of the job: running the pipeline again on the same state directory goes
    on where it ended. ``max_parallelism`` is the number of key groups, and with it the most
    subtasks that a keyed step can ever have; it is fixed for the life of the state. Drawing runs
    nothing::

        pipeline = Pipeline("totals")
        (
            pipeline.source(TextFiles("logs/*.txt"))
            .map(parse)
            .key_by("user")
            .sum("amount", name="totals")
            .sink(JsonLinesFiles("out"))
        )
        pipeline.run(workers=4, state_dir="state")
    """

    def __init__(self, name: str, *, max_parallelism: int = 128) -> None:
        self.name = check_name(name, "pipeline")
        check_parallelism(max_parallelism, "max_parallelism")
        self.max_parallelism = max_parallelism
        self._drawing = Drawing()
        self._invariants: list[Invariant] = []
        self.modules: tuple[str, ...] = ()
        """Modules that a worker cannot import, beside the script: their code travels by value."""

    def source(
        self,
        source: Source,
        *,
        watermark: EventTime | Strategy | None = None,
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[Any]:
        """Return the stream of the records that ``source`` reads.

        ``watermark``: how each of its splits tells event time, by itself:
        ``bounded("5s", timestamp="at")``. What a source with ``on_error="dead-letter"`` cannot
        parse is read by ``stream.side_output("dead-letter")``.
        """
        if not isinstance(source, Source):
            raise ConfigError(f"source: {source!r} is not a source").hint(
                "for values in memory, use pipeline.from_iterable(values)"
            )
        if watermark is not None:
            source = timed_source(source, watermark)
        request = Request(source, (), name, parallelism, OperatorKind.SOURCE)
        step = self._drawing.add(request)
        if source.has_dead_letters:
            step = self._drawing.add_dead_letters(step)
        return Stream(self._drawing, (Input(step),))

    def from_iterable(
        self, values: Iterable[T] | Callable[[], Iterable[T]], *, name: str | None = None
    ) -> Stream[T]:
        """Return the stream of ``values``, or of what a function returns, read by one subtask."""
        from flowsnap.connectors import FromIterable  # noqa: PLC0415 - keeps the import light

        return self.source(FromIterable(values), name=name, parallelism=1)

    @overload
    def invariant(self, check: C, *, on_violation: OnViolation = "alert", name: str = "") -> C: ...
    @overload
    def invariant(
        self, check: None = None, *, on_violation: OnViolation = "alert", name: str = ""
    ) -> Callable[[C], C]: ...
    def invariant(
        self,
        check: Callable[[Snapshot], object] | None = None,
        *,
        on_violation: OnViolation = "alert",
        name: str = "",
    ) -> Any:
        """Have a function of the snapshot look at every checkpoint before it is committed.

        It is violated if it returns something false, or a text that says why, or raises. Then the
        job goes on, and the log has an error; or with ``on_violation="fail"`` it fails, and the
        checkpoint is not committed. To be used as a decorator::

            @pipeline.invariant(on_violation="fail")
            def no_money_is_lost(snapshot):
                return sum(snapshot.state("accounts", "balance").values()) == 1_000

        Raises:
            ConfigError: it is no function.
        """
        from flowsnap.snapshot.invariant import Invariant  # noqa: PLC0415 - few pipelines have one

        def add(function: Callable[[Snapshot], object]) -> Callable[[Snapshot], object]:
            self._invariants.append(Invariant(function, name, on_violation))
            return function

        return add if check is None else add(check)

    def loop(self, name: str, *, parallelism: int | None = None) -> Loop[Any]:
        """Return what will be fed back with ``loop.feed(stream)``, as a stream to read first."""
        from flowsnap.api.looped import Loop  # noqa: PLC0415 - few pipelines have one

        return Loop(self._drawing, name, parallelism)

    def keyed_loop(self, name: str, *, parallelism: int | None = None) -> KeyedLoop[Any, Any]:
        """Return what will be fed back with ``loop.feed(keyed_stream)``, as a keyed stream."""
        from flowsnap.api.looped import KeyedLoop  # noqa: PLC0415 - few pipelines have one

        return KeyedLoop(self._drawing, name, parallelism)

    def definition(self, parallelism: int = 1) -> PipelineDefinition:
        """Return what is submitted, where steps are ``parallelism`` wide unless drawn otherwise.

        Raises:
            ConfigError: the pipeline is not complete, or cannot run so wide.
        """
        check_parallelism(parallelism)
        graph = self._drawing.graph(self.name, parallelism, self.max_parallelism)
        validate(graph)
        code = {name: step.request.code for name, step in self._drawing.steps.items()}
        modules = ("__main__", *self.modules)
        return PipelineDefinition(graph, code, modules, invariant_check(self._invariants))

    def run(  # noqa: PLR0913 - each is a choice of the user's
        self,
        *,
        workers: int = 0,
        state_dir: str | Path | None = None,
        checkpoint_interval: Duration = "10s",
        restore: Restore = "latest",
        allow_removed: bool = False,
        allow_added: bool = False,
        quiet: bool = False,
        **settings: Any,
    ) -> JobResult:
        """Run the pipeline to its end, show its progress, and return how it ended.

        ``workers=0`` runs everything in this process; N starts N processes. ``state_dir`` may be
        a URL such as ``s3://bucket/prefix``; without it checkpoints go to a temporary directory and
        end with the run. ``settings`` are the fields of
        ``JobConfig`` without their unit: ``checkpoint_timeout="10m"``, ``state_memory="1GB"``.
        ``allow_removed``: the state of operators that are gone is dropped; ``allow_added``: new
        operators that keep state begin empty; either is refused otherwise.

        Raises:
            ConfigError: a setting or the pipeline is wrong; nothing has run.
            RestoreError: the checkpoint to begin with is missing, damaged or does not fit.
            JobFailed: the job has failed, and no restart helped.
        """
        from flowsnap.api.display import follow  # noqa: PLC0415 - keeps the import light

        settings |= {"workers": workers, "checkpoint_interval": checkpoint_interval}
        allowed = Allowed(allow_removed, allow_added)
        handle = self._submit(settings, state_dir, restore, allowed, in_thread=False)
        return follow(handle, quiet=quiet, state_dir=state_dir)

    def start(
        self,
        *,
        workers: int = 0,
        state_dir: str | Path | None = None,
        checkpoint_interval: Duration = "10s",
        restore: Restore = "latest",
        allow_removed: bool = False,
        allow_added: bool = False,
        **settings: Any,
    ) -> JobHandle:
        """Start the pipeline as ``run`` does, in a thread, and return a handle of the job."""
        settings |= {"workers": workers, "checkpoint_interval": checkpoint_interval}
        allowed = Allowed(allow_removed, allow_added)
        return self._submit(settings, state_dir, restore, allowed, in_thread=True)

    def _submit(
        self,
        settings: dict[str, Any],
        state_dir: str | Path | None,
        restore: Restore,
        allowed: Allowed,
        *,
        in_thread: bool,
    ) -> JobHandle:
        config = job_config(settings)
        wanted = as_wanted(restore)
        definition = self.definition(max(config.workers, 1))
        from flowsnap.runtime.job import start_job  # noqa: PLC0415 - keeps the import light

        directory = None if state_dir is None else as_state_dir(state_dir)
        return start_job(
            definition,
            config,
            state_dir=directory,
            restore=wanted,
            allowed=allowed,
            in_thread=in_thread,
        )


def as_wanted(restore: object) -> str | int | StateDir:
    """Return what a run is to begin with: a word, the number of a checkpoint, a path or a URL.

    Raises:
        ConfigError: it is none of them.
    """
    if restore in ("latest", "fresh"):
        return str(restore)
    if isinstance(restore, Path | ObjectUrl):
        return as_state_dir(restore)
    if isinstance(restore, str) and (os.sep in restore or os.path.isdir(restore)):
        return as_state_dir(restore)
    if not isinstance(restore, int) or isinstance(restore, bool) or restore < 1:
        raise ConfigError(f"restore: {restore!r} is no checkpoint").hint(
            'write "latest", "fresh", the number of a checkpoint, or the path of a savepoint'
        )
    return restore
