"""Has spin answer every question in ``runs.py``, and prints a table as it goes.

    python -m models.check                     all of them
    python -m models.check feedback SPILLS     those whose model and question contain every word
    python -m models.check --required          fail, instead of skipping, where spin is missing

A property that must hold and does not leaves its counterexample in ``build/models``; so does a
property that must be refuted and is not refuted, or for another reason than it should be.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from models.runs import RUNS, Run

HERE = Path(__file__).resolve().parent
WORK = HERE.parent / "build" / "models"
HOW_TO_GET_IT = "apt-get install spin gcc (Debian, Ubuntu) or brew install spin (macOS)"

DEPTH_MAX = 2_000_000
MEMORY_MB_MAX = 6_000
RUN_SECONDS_MAX = 300

_SAFETY = ("-DSAFETY", "-DNOCLAIM")
_LIVENESS = ("-DNFAIR=3",)  # weak fairness for up to 14 processes
_PROBLEM = re.compile(r"^pan:\d+: (.*?)(?: \(at depth \d+\))?$", re.MULTILINE)
_COUNT = re.compile(r"^\s*(\S+) states, stored", re.MULTILINE)
_ROW = "{:<10} {:<62} {:>10} {:>7}  {}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What spin says; ``problem`` is empty where the property holds."""

    states: int
    seconds: float
    problem: str


class SpinFailed(Exception):
    """Spin, the compiler or the verifier did not get to an answer."""


def missing_tools() -> list[str]:
    """Return what must be installed first: spin, and the C compiler it needs."""
    return [tool for tool in ("spin", "gcc") if shutil.which(tool) is None]


def chosen(words: Sequence[str]) -> list[Run]:
    """Return the runs whose model and question contain all words, in order."""
    return [run for run in RUNS if all(word in f"{run.model} {run.asks}" for word in words)]


def ask(run: Run, directory: Path) -> Answer:
    """Have one question answered; what spin writes goes to ``directory``, which is emptied first.

    Raises:
        SpinFailed: there is no answer.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    source = str(HERE / f"{run.model}.pml")
    defines = [f"-D{define}" for define in run.defines]
    _call(["spin", "-a", *([] if run.ltl else ["-noclaim"]), *defines, source], directory)
    flags = _LIVENESS if run.ltl else _SAFETY
    sizes = ("-DCOLLAPSE", "-DVECTORSZ=4096", f"-DMEMLIM={MEMORY_MB_MAX}")
    _call(["gcc", "-O1", "-w", *flags, *sizes, "-o", "pan", "pan.c"], directory)
    how = ["-a", "-f", "-N", run.ltl] if run.ltl else []
    begun = time.monotonic()
    said = _call(["./pan", f"-m{DEPTH_MAX}", "-w22", *how], directory)
    return _read(said, time.monotonic() - begun)


def verdict(run: Run, answer: Answer) -> tuple[bool, str]:
    """Return whether the answer is as it must be, and what to print."""
    if not run.refuted_by:
        return not answer.problem, f"FAILS: {answer.problem}" if answer.problem else "holds"
    if not answer.problem:
        return False, "NOT REFUTED: the model is blind to it"
    if run.refuted_by not in answer.problem:
        return False, f"REFUTED FOR ANOTHER REASON: {answer.problem}"
    return True, "refuted, as it must be"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check what was asked for; return the exit code: 0 when all is as it must be."""
    parser = argparse.ArgumentParser(
        prog="python -m models.check", description="Checks the models."
    )
    parser.add_argument("words", nargs="*", help="take only the runs that contain all of these")
    parser.add_argument("--required", action="store_true", help="fail where spin is missing")
    options = parser.parse_args(arguments)
    if missing := missing_tools():
        is_what = "NOT CHECKED" if options.required else "skipped"
        print(f"models {is_what}: {' and '.join(missing)} not found; {HOW_TO_GET_IT}")
        return int(options.required)
    runs = chosen(options.words)
    if not runs:
        print(f"no run contains {' and '.join(options.words)}")
        return 2
    return int(_check(runs) > 0)


def _check(runs: Sequence[Run]) -> int:
    """Print the table, row by row; return how many rows are not as they must be."""
    print(_ROW.format("model", "property", "states", "s", "result"))
    begun, wrong = time.monotonic(), 0
    for number, run in enumerate(runs, 1):
        if sys.stderr.isatty():
            print(f"[{number}/{len(runs)}] {run.model}: {run.asks}", end="\r", file=sys.stderr)
        directory = WORK / f"{run.model}-{number:02}"
        try:
            answer = ask(run, directory)
            is_right, text = verdict(run, answer)
            numbers = (f"{answer.states:,}", f"{answer.seconds:.1f}")
        except SpinFailed as error:
            is_right, text, numbers = False, f"NO ANSWER: {error}", ("", "")
        print(_ROW.format(run.model, run.asks, *numbers, text), flush=True)
        if is_right:
            shutil.rmtree(directory, ignore_errors=True)
        else:
            wrong += 1
            print(f"    {_replay(run, directory)}")
    with suppress(OSError):  # A counterexample is in it.
        WORK.rmdir()
    seconds = time.monotonic() - begun
    print(f"{len(runs)} runs in {seconds:.0f} s, {wrong or 'none'} not as they must be")
    return wrong


def _replay(run: Run, directory: Path) -> str:
    defines = " ".join(f"-D{define}" for define in run.defines)
    trail = f"{directory}/{run.model}.pml.trail"
    return f"to replay: spin -p -g -k {trail} {defines} {HERE / run.model}.pml"


def _call(command: Sequence[str], directory: Path) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            capture_output=True,
            check=False,
            text=True,
            timeout=RUN_SECONDS_MAX,
        )
    except subprocess.TimeoutExpired as error:
        raise SpinFailed(f"{command[0]} took more than {RUN_SECONDS_MAX} s") from error
    if done.returncode != 0:
        raise SpinFailed(f"{command[0]}: {(done.stdout + done.stderr).strip()[-500:]}")
    return done.stdout


def _read(said: str, seconds: float) -> Answer:
    count, problem = _COUNT.search(said), _PROBLEM.search(said)
    if count is None or "errors: " not in said or "max search depth too small" in said:
        raise SpinFailed(f"no complete search: {said.strip()[-500:]}")
    return Answer(int(float(count[1])), seconds, problem[1].strip() if problem else "")


if __name__ == "__main__":
    sys.exit(main())
