"""Options and settings of every test run."""

from __future__ import annotations

import signal

import pytest
from hypothesis import settings

# No deadline: a slow machine is no failure. Derandomised: a test that was green stays green until
# the code changes.
settings.register_profile("flowsnap", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("flowsnap")

pytest_plugins = ["pytester"]


def pytest_configure() -> None:
    # A shell starts what it puts into the background with interrupts ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite",
        action="store_true",
        help="write what the machines answer into the scenario scripts; the diff is the review",
    )
