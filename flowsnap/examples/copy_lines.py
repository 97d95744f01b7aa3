"""Copy: JSON lines through a function into JSON lines, each record exactly once.

``python -m flowsnap.examples.copy INPUT OUTPUT`` copies what INPUT means (a file, a
directory or a glob) into part files in the directory OUTPUT.
"""

from __future__ import annotations

from typing import Any

from flowsnap import Pipeline
from flowsnap.connectors import JsonLinesFiles


def tidy(record: Any) -> Any:
    """Return a record whose fields, if it has any, are sorted by name."""
    return dict(sorted(record.items())) if isinstance(record, dict) else record


def pipeline(input: str, output: str) -> Pipeline:
    """Return the pipeline."""
    job = Pipeline("copy")
    (
        job.source(JsonLinesFiles(input), name="input")
        .map(tidy, name="tidy")
        .sink(JsonLinesFiles(output, existing="replace"), name="output")
    )
    return job
