"""Savepoints as a user makes them: real processes, another number of workers, kill -9."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.processes import until

pytestmark = pytest.mark.slow

COUNT = 60_000
WAIT_S = 60.0
JOB = """
from pathlib import Path

from flowsnap import Pipeline
from flowsnap.connectors import Generator, JsonLinesFiles


def number(n: int) -> int:
    return n


def digits(out: Path, rate: float | None = None, name: str = "digits") -> Pipeline:
    pipeline = Pipeline(name)
    (
        pipeline.source(Generator(number, 60_000, rate=rate, splits=4), name="numbers")
        .key_by(lambda n: n % 1_000, name="by")
        .count(name="counts")
        .sink(JsonLinesFiles(out, existing="append"), name="out")
    )
    return pipeline
"""


class Jobs:
    """Runs of the job, and commands about them, in processes of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.out = directory / "out"
        (directory / "job.py").write_text(JOB, encoding="utf-8")
        self.running: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, alignment: str = "aligned") -> subprocess.Popen[str]:
        before = self.checkpoints()
        process = self._popen(
            *("run", "job.py:digits", "--arg", f"out={self.out}", "--state-dir", str(self.state)),
            *("--checkpoint-interval", "100ms", "--set", f"checkpoint_alignment={alignment}"),
            *("--arg", "rate=500"),
            *arguments,
        )
        self.running.append(process)
        try:
            until(lambda: self.checkpoints() > before, "a checkpoint")
        except AssertionError:
            process.kill()
            print(process.communicate()[0])  # for the report of the failure
            raise
        return process

    def finish(self, *arguments: str) -> None:
        """Run the job to its end, as fast as it goes."""
        code, text = self.call(
            *("run", "job.py:digits", "--arg", f"out={self.out}", "--state-dir", str(self.state)),
            *arguments,
        )
        assert code == 0, text

    def call(self, *arguments: str) -> tuple[int, str]:
        process = self._popen(*arguments)
        text, _ = process.communicate(timeout=WAIT_S)
        return process.returncode, text

    def ask(self, command: str, *arguments: str) -> tuple[int, str]:
        return self.call(command, "--state-dir", str(self.state), *arguments)

    def checkpoints(self) -> list[str]:
        found = self.state.glob("digits/checkpoints/*/manifest.json")
        return sorted(path.parent.name for path in found)[-1:]

    def savepoint(self, name: str) -> Path:
        return self.state / "digits" / "savepoints" / name

    def assert_exactly_once(self) -> None:
        parts = self.out.glob("part-*.jsonl")
        read = [tuple(json.loads(line)) for part in parts for line in part.read_text().splitlines()]
        expected = {(key, n) for key in range(1_000) for n in range(1, COUNT // 1_000 + 1)}
        assert Counter(read) == Counter(expected)

    def _popen(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "flowsnap.cli.main", *arguments],
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(tmp_path)
    yield made
    for process in made.running:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("alignment", ["aligned", "unaligned"])
def test_a_job_moves_by_savepoints_from_one_worker_to_three_to_two(
    jobs: Jobs, alignment: str
) -> None:
    restore: list[str] = []
    for workers in ("1", "3", "2"):
        run = jobs.start("--workers", workers, *restore, alignment=alignment)
        code, text = jobs.ask("stop", "--savepoint", f"with-{workers}")
        assert (code, run.wait(WAIT_S)) == (0, 130), text
        restore = ["--restore", str(jobs.savepoint(f"with-{workers}"))]

    jobs.finish("--workers", "2", *restore)

    jobs.assert_exactly_once()


def test_a_savepoint_of_a_running_job_can_be_gone_back_to(jobs: Jobs) -> None:
    run = jobs.start("--workers", "2")
    code, text = jobs.ask("savepoint", "--to", str(jobs.directory / "kept"))
    assert code == 0, text
    newest = jobs.checkpoints()
    until(lambda: jobs.checkpoints() > newest, "one more checkpoint")
    assert jobs.ask("cancel")[0] == 0
    run.wait(WAIT_S)

    jobs.finish("--workers", "3", "--restore", str(jobs.directory / "kept"))

    jobs.assert_exactly_once()


def test_a_drained_job_has_finished(jobs: Jobs) -> None:
    run = jobs.start("--workers", "2")

    code, text = jobs.ask("stop", "--drain")

    assert (code, text) == (0, "job digits is finished\n")
    assert run.wait(WAIT_S) == 0


@pytest.mark.fault("F25", promise="P2 P4", oracles="O3 O5 O7 O8")
def test_requests_at_once_come_to_exactly_one_end_each(jobs: Jobs) -> None:
    run = jobs.start("--workers", "2")
    where = ("--state-dir", str(jobs.state))
    asked = [
        jobs._popen(*request, *where)
        for request in (
            ("savepoint", "--name", "x"),
            ("savepoint", "--name", "x"),
            ("savepoint", "--name", "y"),
            ("stop", "--savepoint", "z"),
            ("stop",),
            ("cancel",),
        )
    ]

    ends = [(process.communicate(timeout=WAIT_S)[0], process.returncode) for process in asked]

    assert run.wait(WAIT_S) == 130
    assert {code for _, code in ends} <= {0, 1, 2}, ends
    assert all(text for text, _ in ends)
    left = {path.name for path in (jobs.state / "digits" / "savepoints").glob("*")}
    assert left <= {"x", "y", "z"}
    jobs.finish()
    jobs.assert_exactly_once()


@pytest.mark.fault("F25", promise="P4 P5", oracles="O3 O5 O6")
def test_who_waits_for_a_job_manager_that_is_killed_is_told_so(jobs: Jobs) -> None:
    run = jobs.start("--workers", "1")
    run.send_signal(signal.SIGSTOP)  # It cannot answer.
    asked = jobs._popen("savepoint", "--state-dir", str(jobs.state))
    until(lambda: list((jobs.state / "digits" / "requests").glob("*.json")), "the request")

    run.send_signal(signal.SIGKILL)
    text, _ = asked.communicate(timeout=WAIT_S)

    assert asked.returncode == 1
    assert "has ended without an answer" in text
    run.wait(WAIT_S)
    jobs.finish()
    assert list((jobs.state / "digits" / "requests").glob("*")) == []
    jobs.assert_exactly_once()


def test_a_savepoint_begins_another_job_elsewhere(jobs: Jobs) -> None:
    run = jobs.start("--workers", "2")
    assert jobs.ask("stop", "--savepoint", "last")[0] == 0
    run.wait(WAIT_S)

    code, text = jobs.call(
        *("run", "job.py:digits", "--arg", f"out={jobs.out}", "--arg", "name=other"),
        *("--state-dir", str(jobs.directory / "else")),
        *("--restore", str(jobs.savepoint("last")), "--workers", "3"),
    )

    assert code == 0, text
    jobs.assert_exactly_once()
