"""Runs a pipeline for a benchmark, in a state directory of its own, and says what it took."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowsnap import Pipeline
from flowsnap.core.manifest import CheckpointManifest
from flowsnap.runtime.job import JobHandle
from flowsnap.storage.job_directory import JobDirectory


@dataclass(frozen=True)
class Measured:
    """What a run took: from the tasks' start to the committed end, and its checkpoints."""

    running_s: float
    manifests: list[CheckpointManifest]


def measured_run(
    pipeline: Pipeline,
    *,
    meanwhile: Callable[[JobHandle], None] = lambda handle: None,
    **settings: Any,
) -> Measured:
    """Run ``pipeline`` to its end; ``meanwhile`` is given the handle while it runs."""
    with tempfile.TemporaryDirectory(prefix="flowsnap-bench-") as name:
        handle = pipeline.start(state_dir=name, **settings)
        meanwhile(handle)
        result = handle.wait()
        directory = JobDirectory.read(Path(name), result.job)
        manifests = [directory.read_manifest(id_) for id_ in directory.checkpoints()]
    return Measured(result.running_ms / 1000, manifests)
