"""How a run of the acceptance job ends: by itself, or by running the same command again."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance import jobs
from tests.acceptance.processes import Run

COUNT = 12_000


def finish(run: Run) -> str:
    """Wait for a run to succeed, hold its output to the input, and return what it printed."""
    code, text = run.wait()
    assert code == 0, text
    jobs.assert_exactly_once(run.output, COUNT)
    return text


def rerun_until_done(directory: Path, *arguments: str) -> str:
    """Run the same command again, to its end."""
    return finish(Run(directory, "--workers", "2", *arguments))
