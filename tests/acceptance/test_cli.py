"""The command line as a user meets it: real processes and files, exit codes, what is printed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

JOB = '''
from pathlib import Path

from flowsnap import Pipeline
from flowsnap.connectors import Discard, Generator, JsonLinesFiles


def number(n: int) -> int:
    return n


def counts(out: Path, count: int = 20_000, rate: float | None = None) -> Pipeline:
    """Count the numbers by their last digit."""
    pipeline = Pipeline("digits")
    (
        pipeline.source(Generator(number, count, rate=rate, splits=2), name="numbers")
        .key_by(lambda n: n % 10)
        .count(emit="final", name="count")
        .sink(JsonLinesFiles(out), name="out")
    )
    return pipeline


def parse(n: int) -> int:
    return 100 // (n - 7)


failing = Pipeline("failing")
failing.source(Generator(number, 10), name="numbers").map(parse, name="parse").sink(Discard())
'''


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Return a directory with the job in it."""
    (tmp_path / "job.py").write_text(JOB, encoding="utf-8")
    return tmp_path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "flowsnap.cli.main", *arguments]


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if "COLOR" not in name}
    return kept | {"COLUMNS": "100", "TERM": "dumb"}


def flowsnap(here: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=here,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def output(directory: Path) -> list[list[int]]:
    lines = [line for part in directory.glob("*.jsonl") for line in part.read_text().splitlines()]
    return sorted(json.loads(line) for line in lines)


def interrupted(here: Path, number: signal.Signals) -> tuple[int, str]:
    """Start a job that takes its time, and interrupt it after its first checkpoint."""
    arguments = ("-a", "out=out", "-a", "rate=2000", "--checkpoint-interval", "300ms")
    process = subprocess.Popen(
        command("run", "job.py:counts", *arguments, "--state-dir", "state", "--workers", "2"),
        cwd=here,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stderr is not None
        lines = until(process.stderr, "completed")
        if number is signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does: the workers get it, too
        else:
            process.send_signal(number)
        rest = process.stderr.read()
    return process.returncode, "".join(lines) + rest


def until(stream: Iterator[str], text: str) -> list[str]:
    lines = []
    for line in stream:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError("".join(lines))


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_pipeline_in_a_file_runs_to_its_end(here: Path, workers: str) -> None:
    ran = flowsnap(here, "run", "job.py:counts", "--arg", "out=out", "--workers", workers)

    assert ran.returncode == 0, ran.stderr
    assert "digits finished" in ran.stderr
    assert output(here / "out") == [[digit, 2_000] for digit in range(10)]


def test_quiet_says_nothing(here: Path) -> None:
    ran = flowsnap(here, "run", "job.py:counts", "-a", "out=out", "--quiet")

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@pytest.mark.fault("F35", promise="P1 P2", oracles="O3")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_job_goes_on_where_it_stopped(here: Path, number: signal.Signals) -> None:
    code, said = interrupted(here, number)
    again = flowsnap(here, "run", "job.py:counts", "-a", "out=out", "--state-dir", "state")

    assert (code, again.returncode) == (130, 0), said + again.stderr
    assert "stopping with a last checkpoint" in said
    assert "to go on from checkpoint" in said
    assert "restored from checkpoint" in again.stderr
    assert output(here / "out") == [[digit, 2_000] for digit in range(10)]


def test_a_failed_job_shows_the_users_own_line_and_no_traceback_of_ours(here: Path) -> None:
    ran = flowsnap(here, "run", "job.py:failing", "--set", "restart=none", "--workers", "1")

    assert ran.returncode == 1
    assert "ZeroDivisionError" in ran.stderr
    assert "return 100 // (n - 7)" in ran.stderr
    assert "flowsnap/cli" not in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "job.py:count"], "did you mean job.py:counts?"),
        (["run", "job.py:counts"], "parameter 'out' is missing"),
        (["run", "job.py:failing", "--set", "wrokers=1"], "there is no setting 'wrokers'"),
        (["run", "job.py:failing", "--workers", "-1"], "--workers"),
        (["run", "job.py:failing", "--fresh", "--restore", "1"], "give one of them"),
        (["verify", "--state-dir", "nowhere"], "there are no checkpoints in nowhere"),
    ],
)
def test_wrong_use_ends_with_2_and_says_what_is_wrong(
    here: Path, arguments: list[str], told: str
) -> None:
    ran = flowsnap(here, *arguments)

    assert ran.returncode == 2
    assert told in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_checkpoint_that_is_not_there_ends_with_3(here: Path) -> None:
    arguments = ("-a", "out=out", "--state-dir", "state", "--restore", "999")

    assert flowsnap(here, "run", "job.py:counts", *arguments).returncode == 3


def test_checkpoints_are_listed_for_people_and_for_programs(here: Path) -> None:
    interrupted(here, signal.SIGINT)

    listed = flowsnap(here, "checkpoints", "--state-dir", "state")
    read = json.loads(flowsnap(here, "checkpoints", "--state-dir", "state", "--json").stdout)

    assert "complete" in listed.stdout
    assert read[-1]["state"] == "complete"
    assert read[-1]["size_bytes"] > 0
    assert [line["id"] for line in read] == sorted(line["id"] for line in read)


@pytest.mark.fault("F11", promise="P5 P7", oracles="O6 O8")
def test_a_flipped_bit_is_found_and_named(here: Path) -> None:
    interrupted(here, signal.SIGINT)
    whole = flowsnap(here, "verify", "--state-dir", "state", "--job", "digits")
    victim = max((here / "state" / "digits" / "shared").glob("*.sst"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)

    damaged = flowsnap(here, "verify", "--state-dir", "state")

    assert (whole.returncode, damaged.returncode) == (0, 3), whole.stdout
    assert f"corrupt  shared/{victim.name}" in damaged.stdout


def test_the_graph_of_a_pipeline_is_shown_without_running_it(here: Path) -> None:
    shown = flowsnap(here, "graph", "job.py:counts", "-a", "out=out", "--workers", "2")
    drawn = flowsnap(here, "graph", "job.py:counts", "-a", "out=out", "--mermaid")
    told = flowsnap(here, "graph", "job.py:counts", "-a", "out=out", "--json")

    assert "on 2 workers" in shown.stdout
    assert drawn.stdout.startswith("flowchart LR")
    assert json.loads(told.stdout)["job"]["name"] == "digits"
    assert not (here / "out").exists()
