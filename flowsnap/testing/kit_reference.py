"""What a pipeline puts out if nothing goes wrong: one run in this thread, each step one wide."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from flowsnap.api.pipeline import Pipeline
from flowsnap.api.settings import job_config
from flowsnap.core.ids import OperatorId
from flowsnap.core.operator import Sink, Source
from flowsnap.errors import ConfigError
from flowsnap.operators.async_map import AsyncMap
from flowsnap.runtime.definition import Code, PipelineDefinition
from flowsnap.state.backend import StateBackend
from flowsnap.state.memory import MemoryBackend
from flowsnap.testing.capture import CapturingSink, Ledger
from flowsnap.testing.kit_ends import DirectAsyncMap, InputSource, Splits, View
from flowsnap.testing.local_job import HandClock, LocalJob
from flowsnap.testing.steps import Trouble
from flowsnap.testing.substitute import ends_of

RECORDS_AT_ONCE = 1_000
STEP_MS = 1_000
WAIT_MS_MAX = 24 * 3_600_000


def undisturbed(
    pipeline: Pipeline, inputs: Mapping[str, Splits], views: Mapping[str, View]
) -> dict[str, list[Any]]:
    """Return what each sink has committed at the end; of one with a view, what that shows.

    Raises:
        OperatorError: the user's code has raised.
        ConfigError: the job does not end.
    """
    base = pipeline.definition(1)
    sinks = ends_of(base, Sink)
    ledgers = {name: Ledger() for name in sinks}
    code: dict[OperatorId, Code] = {
        name: DirectAsyncMap.of(one) if isinstance(one, AsyncMap) else one
        for name, one in base.code.items()
    }
    for name, source in ends_of(base, Source).items():
        pace = [(RECORDS_AT_ONCE, 0)]
        code[OperatorId(name)] = InputSource(inputs[name], pace, source.event_time, Trouble())
    for name, sink in sinks.items():
        code[OperatorId(name)] = CapturingSink(ledgers[name], sink if name in views else None)
    _run(PipelineDefinition(base.graph, code, base.modules))
    return {
        name: list(views[name](sink)) if name in views else _committed(ledgers[name])
        for name, sink in sinks.items()
    }


def _run(definition: PipelineDefinition) -> None:
    clock = HandClock(0)
    never = "36500d"
    config = job_config(
        {
            "checkpoint_interval": never,
            "checkpoint_timeout": never,
            "restart": {"strategy": "none"},
        }
    )
    make = cast("Callable[..., StateBackend]", MemoryBackend)
    with tempfile.TemporaryDirectory(prefix="flowsnap-reference-") as directory:
        job = LocalJob(Path(directory), definition, clock, config, make_state=make)
        try:
            job.settle()
            while not job.is_done and clock.now_ms() < WAIT_MS_MAX:
                clock.reach(clock.wall_ms() + STEP_MS)
                job.settle()
        finally:
            job.crash()
        if not job.is_done:
            raise ConfigError("simulate: the pipeline does not end, although its inputs do").hint(
                "a step waits for the wall clock, or for something outside of the job"
            )


def _committed(ledger: Ledger) -> list[Any]:
    return [one.value for one in ledger.written if one.is_committed]
