"""The table of docs/reliability.md: fault, promise, test, figure; made from the tests' own marks.

``python -m tests.reliability`` writes the page anew; with ``--measure`` it runs every marked test
before, and keeps in ``reliability.json`` how many kills, flips and seeds each of them tried.
"""

from __future__ import annotations

import argparse
import ast
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.generated import Part

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
FIGURES = Path(__file__).with_name("reliability.json")

FAULTS: dict[str, str] = {
    "F1": "`kill -9` of a worker, at each step of the protocol",
    "F2": "`kill -9` of the job manager, at each step of the protocol",
    "F3": "everything killed at once, at any moment",
    "F4": "killed again while it recovers",
    "F5": "a worker stops for longer than its timeout, and comes back",
    "F6": "a job manager stops, is replaced, and comes back",
    "F7": "two job managers on one directory",
    "F8": "the disk is full",
    "F9": "a sync, rename or deletion fails, or its outcome is unknown",
    "F10": "loss of power, with writes torn or forgotten",
    "F11": "a bit flips, a file is cut or missing, in each class of file",
    "F12": "a connection is cut, reset or half-open",
    "F13": "latency and stalls",
    "F14": "a partition lets one direction through, or none, for a while",
    "F15": "a message is lost, in the middle or at the tail",
    "F16": "a consumer is slow",
    "F17": "a record that the user's code cannot take",
    "F18": "the user's code hangs, with or without the interpreter",
    "F19": "the user's code ends its process",
    "F20": "the user's code takes all memory",
    "F21": "a record that cannot travel",
    "F22": "the input is gone or shorter",
    "F23": "the sink is down, refuses, does not answer, or forgets",
    "F24": "the clock jumps",
    "F25": "savepoints, stop, cancel and a death at the same time",
    "F26": "another number of workers, while something fails",
    "F28": "no file descriptors are left",
    "F29": "a socket is stale, taken, or a stranger knocks",
    "F30": "leftovers, half checkpoints and foreign files in the directory",
    "F31": "the command line is killed after it started the job, and run again",
    "F34": "files are collected while something is restored or completed",
    "F35": "SIGTERM, SIGHUP, Ctrl-C twice, the parent dies, the terminal goes",
}

UNTESTED: dict[str, str] = {
    "F27": "checkpoints of another version: there is one format version so far, "
    "and any other is refused",
    "F32": "loss of a node of a cluster: there are none",
    "F33": "a machine that is overloaded for hours: the tests run two at a time on two cores, "
    "no worse",
}


class Mark(msgspec.Struct, frozen=True, order=True):
    """``test`` shows that ``promise`` holds under ``fault``; who looks are the ``oracles``."""

    fault: str
    promise: str
    oracles: str
    test: str  # path::function


class Figure(msgspec.Struct, frozen=True):
    """What came of a test: ``runs`` of its cases passed; ``counts`` are what they recorded."""

    runs: int = 0
    skipped: int = 0
    counts: dict[str, int] = {}


class Figures(msgspec.Struct, frozen=True):
    """All figures of one measurement."""

    machine: str
    tests: dict[str, Figure]


# --- marks


def marks(root: Path = ROOT) -> list[Mark]:
    """Return every mark in the tests below ``root``, by fault.

    Raises:
        ValueError: a mark names no known fault, or lacks what it must say.
    """
    found: list[Mark] = []
    for path in sorted((root / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if "mark.fault" in text:
            found += _marks_in(ast.parse(text), path.relative_to(root).as_posix())
    return sorted(found, key=lambda mark: (_number(mark.fault), mark.test))


def _marks_in(tree: ast.Module, path: str) -> Iterator[Mark]:
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef):
            continue
        for decorator in node.decorator_list:
            match decorator:
                case ast.Call(func=ast.Attribute(attr="fault"), args=[ast.Constant(str(fault))]):
                    yield _mark(fault, decorator, f"{path}::{node.name}")
                case _:
                    pass


def _mark(fault: str, call: ast.Call, test: str) -> Mark:
    said = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    if fault not in FAULTS or said.keys() != {"promise", "oracles"}:
        raise ValueError(f"{test}: fault {fault!r} with {sorted(map(str, said))} is no mark")
    return Mark(fault, said["promise"], said["oracles"], test)


def _number(fault: str) -> int:
    return int(fault.removeprefix("F"))


# --- figures


class Recorder:
    """A pytest plugin that adds up what tests record with ``record_property``."""

    def __init__(self) -> None:
        self.tests: dict[str, Figure] = {}
        self.failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the report of one phase of one case."""
        test = report.nodeid.partition("[")[0]
        if report.failed:
            self.failed.add(test)
        if report.failed or (report.when != "call" and not report.skipped):
            return
        before = self.tests.get(test, Figure())
        counts = dict(before.counts)
        for name, value in report.user_properties if report.passed else ():
            counts[name] = counts.get(name, 0) + int(str(value))
        self.tests[test] = Figure(
            before.runs + report.passed, before.skipped + report.skipped, counts
        )

    def merged(self, former: dict[str, Figure], marked: set[str]) -> dict[str, Figure]:
        """Return the figures there are now; a test with a failing case has none."""
        found = {**former, **self.tests}
        return {test: found[test] for test in sorted(found.keys() & marked - self.failed)}


def measure(arguments: list[str]) -> int:
    """Run the marked tests, or those that ``-k`` chooses; keep their figures, return the code."""
    recorder, marked = Recorder(), {mark.test for mark in marks()}
    code = pytest.main(["-q", "-m", "fault", *arguments, *sorted(marked)], plugins=[recorder])
    machine = (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"{platform.python_implementation()} {platform.python_version()}"
    )
    figures = Figures(machine, recorder.merged(read_figures().tests, marked))
    FIGURES.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n")
    return int(code)


def read_figures() -> Figures:
    """Return the figures of the last measurement."""
    return msgspec.json.decode(FIGURES.read_bytes(), type=Figures)


# --- the page


def table(found: list[Mark], figures: Figures) -> str:
    """Return the generated part of the page."""
    lines = ["| fault | promise | oracles | test | tried |", "|---|---|---|---|---|"]
    former = ""
    for mark in found:
        path, _, name = mark.test.partition("::")
        fault = f"**{mark.fault}** {FAULTS[mark.fault]}" if mark.fault != former else ""
        former = mark.fault
        tried = _tried(figures.tests.get(mark.test, Figure()))
        lines.append(
            f"| {fault} | {mark.promise} | {mark.oracles} | [`{name}`](../{path}) | {tried} |"
        )
    lines += ["", *_totals(found, figures), "", "Not tested, and why:", ""]
    lines += [f"- **{fault}** {why}." for fault, why in UNTESTED.items()]
    return "\n".join(lines)


def _tried(figure: Figure) -> str:
    parts = [f"{figure.runs} runs" if figure.runs != 1 else "1 run"] if figure.runs else []
    parts += [f"{value:,} {name}" for name, value in sorted(figure.counts.items())]
    parts += [f"{figure.skipped} skipped"] if figure.skipped else []
    return ", ".join(parts) or "-"


def _totals(found: list[Mark], figures: Figures) -> list[str]:
    tests = sorted({mark.test for mark in found} & figures.tests.keys())
    runs = sum(figures.tests[test].runs for test in tests)
    totals: dict[str, int] = {}
    for test in tests:
        for name, value in figures.tests[test].counts.items():
            if name in ADDED_UP:
                totals[name] = totals.get(name, 0) + value
    said = ", ".join(f"{totals[name]:,} {name}" for name in ADDED_UP if name in totals)
    return [
        f"In all {runs:,} runs of {len(tests)} tests: {said}. All of them passed; what is not "
        "measured has a dash. "
        f"Measured on {figures.machine}, by `python -m tests.reliability --measure`."
    ]


ADDED_UP = ("crashes", "seeds", "flips", "cuts of files", "cuts", "frames dropped", "zombies")
"""What is comparable over tests, in the order it is told."""


page = Part(PAGE.name, "<!-- faults -->", "<!-- /faults -->").put


def main(arguments: list[str]) -> int:
    """Measure if asked to, and write the page; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("--measure", action="store_true", help="run the marked tests before")
    known, rest = parser.parse_known_args(arguments)
    code = measure(rest) if known.measure else 0
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(page(text, table(marks(), read_figures())), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
