"""Every test with real processes has a deadline, and shows what all of them did when it passed."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.acceptance.processes import descendants, orphans, until
from tests.integration.jobs import census

DEADLINE_S = 100.0
END_S = 10.0  # a worker follows its parent at once on Linux, and soon elsewhere
MARK = "FLOWSNAP_CENSUS"


@pytest.fixture(autouse=True)
def deadline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Abort every process of a test that takes too long: each prints its stacks as it dies."""
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")
    is_over = threading.Event()

    def abort() -> None:
        is_over.set()
        faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
        for pid in descendants(os.getpid()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGABRT)
                os.kill(pid, signal.SIGCONT)

    timer = threading.Timer(DEADLINE_S, abort)
    timer.daemon = True
    timer.start()
    yield
    timer.cancel()
    assert not is_over.is_set(), f"not done within {DEADLINE_S} s; the log has the stacks"


@pytest.fixture(autouse=True)
def no_orphans(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Find what a test has left running, also where its parent is dead: the mark is inherited."""
    mark = f"{MARK}={tmp_path}"
    monkeypatch.setenv(MARK, str(tmp_path))
    yield
    try:
        until(lambda: not orphans(mark), "processes to end that were left behind", END_S)
    finally:
        for pid in orphans(mark):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """Return a state directory, and hold the census once the test is over."""
    directory = tmp_path / "state"
    with census(directory):
        yield directory
