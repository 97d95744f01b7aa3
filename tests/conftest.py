"""Options and settings of every test run."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# No deadline: a slow machine is no failure. Derandomised: a test that was green stays green until
# the code changes.
settings.register_profile("flowsnap", deadline=None, derandomize=True, max_examples=100)
# Many, and other ones each night: what has failed is kept in .hypothesis, and is tried first.
settings.register_profile(
    "nightly",
    deadline=None,
    derandomize=False,
    max_examples=5_000,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "flowsnap"))

pytest_plugins = ["pytester"]


def pytest_configure() -> None:
    # A shell starts what it puts into the background with interrupts ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have every process begin with its share of the longest tests: nobody waits for one alone."""
    processes = getattr(config, "workerinput", {}).get("workercount", 1)
    long = sorted(filter(seconds_of, items), key=seconds_of, reverse=True)
    short = [item for item in items if not seconds_of(item)]
    share = -(-len(short) // processes)
    items[:] = [
        item
        for process in range(processes)
        for item in (
            *long[process::processes],
            *short[process * share : (process + 1) * share],
        )
    ]


def seconds_of(item: pytest.Item) -> int:
    """Return about how long a test takes, where its mark says so."""
    mark = item.get_closest_marker("slow")
    return mark.kwargs.get("seconds", 0) if mark is not None else 0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite",
        action="store_true",
        help="write what the machines answer into the scenario scripts; the diff is the review",
    )
