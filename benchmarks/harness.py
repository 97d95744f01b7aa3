"""How a benchmark measures, and what it hands back.

A machine is never quiet, so cases are not measured one after the other: every round runs each case
once, a ratio is taken within a round, and the median of the rounds stands for all of them.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parent.parent
_LIBRARIES = ("flowsnap", "rocksdict", "pyzmq", "msgspec", "cloudpickle")


_listeners: list[Callable[[str], None]] = []


def announce(step: str) -> None:
    """Say what is being measured just now."""
    for listener in _listeners:
        listener(step)


def listen(listener: Callable[[str], None]) -> None:
    """Have ``listener``, and nobody else, told what is being measured."""
    _listeners[:] = [listener]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a benchmark's table.

    ``ratio`` is to the baseline of the benchmark, the median over the rounds; ``spread`` is the
    distance of the quartiles as a share of the median; a value is better when it is higher, unless
    ``is_lower_better``.
    """

    case: str
    value: float
    unit: str = "records/s"
    ratio: float | None = None
    spread: float | None = None
    is_lower_better: bool = False
    note: str = ""


class Result(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All rows of one benchmark; ``question`` is what it answers, ``commit`` what was measured.

    ``machine`` and ``versions`` are there where they may not be those of the record.
    """

    name: str
    question: str = ""
    rows: tuple[Row, ...] = ()
    commit: str = ""
    machine: dict[str, str | int] = {}
    versions: dict[str, str] = {}


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run of benchmarks, and what it ran on; of a single one ``name`` and ``rows`` as well."""

    name: str = ""
    rows: tuple[Row, ...] = ()
    benchmarks: tuple[Result, ...]
    machine: dict[str, str | int]
    versions: dict[str, str]
    commit: str
    is_quick: bool = False


class Rounds:
    """What several interleaved rounds measured: for each case one value per round."""

    def __init__(self, values: Mapping[str, list[float]]) -> None:
        self.values = values

    def median(self, case: str) -> float:
        """Return the median of a case's values."""
        return statistics.median(self.values[case])

    def ratio(self, case: str, baseline: str) -> float:
        """Return the median over the rounds of a case's value divided by the baseline's."""
        pairs = zip(self.values[case], self.values[baseline], strict=True)
        return statistics.median(value / base for value, base in pairs)

    def spread(self, case: str) -> float:
        """Return the distance of the quartiles as a share of the median; 0 for a single round."""
        values = self.values[case]
        if len(values) < 2:
            return 0.0
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        return (high - low) / middle if middle else 0.0

    def rows(
        self,
        unit: str = "records/s",
        *,
        baseline: str | None = None,
        is_lower_better: bool = False,
        notes: Mapping[str, str] | None = None,
    ) -> list[Row]:
        """Return one row for each case, in the order given."""
        return [
            Row(
                case=case,
                value=self.median(case),
                unit=unit,
                ratio=None if baseline is None else self.ratio(case, baseline),
                spread=self.spread(case),
                is_lower_better=is_lower_better,
                note=(notes or {}).get(case, ""),
            )
            for case in self.values
        ]


def rounds(n: int, cases: Mapping[str, Callable[[], float]], *, warm_up: bool = False) -> Rounds:
    """Run every case once in each of ``n`` rounds: A B, A B, ...

    A case measures itself and returns its value (records per second, ms, bytes). With ``warm_up``
    there is one round before, which does not count.
    """
    if n < 1 or not cases:
        raise ValueError(f"{n} rounds of {len(cases)} cases measure nothing")
    values: dict[str, list[float]] = {case: [] for case in cases}
    for number in range(0 if warm_up else 1, n + 1):
        for case, measure in cases.items():
            announce(f"{case}, {f'round {number} of {n}' if number else 'warming up'}")
            value = measure()
            if number:
                values[case].append(value)
    return Rounds(values)


def per_second(records: int, work: Callable[[], object]) -> float:
    """Return how many of ``records`` per second ``work`` gets through, by the wall clock."""
    started_s = time.perf_counter()
    work()
    return records / (time.perf_counter() - started_s)


def machine() -> dict[str, str | int]:
    """Return what the benchmarks run on."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def _cpu() -> str:
    if sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def versions() -> dict[str, str]:
    """Return the versions of what is measured and what it stands on."""
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}


def commit() -> str:
    """Return the commit of the checkout, with ``-dirty`` where it has changes; empty if unknown."""
    head = _output("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
    changes = _output("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    return f"{head}-dirty" if head and changes else head


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
