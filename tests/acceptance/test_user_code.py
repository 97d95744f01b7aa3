"""Whatever the user's code does to its worker: it is told, and the job goes on or ends."""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import resource
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from flowsnap import Pipeline
from flowsnap.connectors import Discard, FromIterable, Generator
from flowsnap.errors import JobFailed
from tests.acceptance.digits import NEVER_AGAIN, OFTEN, TWICE, assert_exactly_once, digits, run
from tests.acceptance.processes import resident_mib, until
from tests.integration.jobs import QUICK, once_after_a_checkpoint

pytestmark = pytest.mark.slow
Told = Callable[[str, object], None]
MIB = 2**20


# --- its end


def deeper(n: int = 0) -> int:
    return deeper(n + 1)


def interrupt() -> NoReturn:
    raise KeyboardInterrupt


def generator_exit() -> NoReturn:
    raise GeneratorExit("not for you")


def signalled(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def leave_from_a_thread() -> None:
    thread = threading.Thread(target=os._exit, args=(5,))
    thread.start()
    thread.join()


@pytest.mark.fault("F19", promise="P1 P2 P5 P6", oracles="O1 O3 O4 O6")
@pytest.mark.parametrize(
    ("act", "cause"),
    [
        pytest.param(lambda: ctypes.string_at(0), "was killed by SIGSEGV", id="segfault"),
        pytest.param(os.abort, "was killed by SIGABRT", id="abort"),
        pytest.param(lambda: os._exit(4), "ended with exit code 4", id="_exit"),
        pytest.param(leave_from_a_thread, "ended with exit code 5", id="_exit-in-thread"),
        pytest.param(lambda: sys.exit(3), "ended with exit code 3", id="sys.exit"),
        pytest.param(deeper, "'act', subtask [01]: RecursionError", id="RecursionError"),
        pytest.param(interrupt, "ended with exit code|SIGINT", id="KeyboardInterrupt"),
        pytest.param(generator_exit, "ended with exit code 1", id="BaseException"),
        pytest.param(signalled(signal.SIGTERM), "was killed by SIGTERM", id="SIGTERM"),
        pytest.param(signalled(signal.SIGKILL), "was killed by SIGKILL", id="SIGKILL"),
    ],
)
def test_whatever_ends_a_worker_is_named_and_made_good(
    state: Path, act: Callable[[], object], cause: str, record_property: Told
) -> None:
    result = run(state, 2, once_after_a_checkpoint(state, act))

    record_property("crashes", len(result.failures))
    assert result.attempts == 2
    assert result.restored_from is not None
    assert re.search(cause, result.failures[0])


# --- it hangs


def forever() -> None:
    threading.Event().wait()


def forever_in_c() -> None:
    """Never give the interpreter to another thread: not even the heartbeats'."""
    sum(itertools.repeat(0))


@pytest.mark.fault("F18", promise="P1 P4 P5", oracles="O1 O3 O5 O6")
@pytest.mark.parametrize(
    ("act", "cause"),
    [
        pytest.param(forever, "stuck in one step for 1000 ms", id="python"),
        pytest.param(forever_in_c, "silent for 1500 ms|stuck in one step", id="holds-the-gil"),
    ],
)
def test_a_function_that_hangs_is_given_up_after_its_deadline(
    state: Path, act: Callable[[], object], cause: str, record_property: Told
) -> None:
    watch: dict[str, Any] = {
        "stall_timeout": "1s",
        "heartbeat_interval": "50ms",
        "heartbeat_timeout": "1500ms",
        "restart": OFTEN,
    }
    result = run(state, 2, once_after_a_checkpoint(state, act), **watch)

    record_property("hangs", 1)
    assert result.attempts > 1
    assert re.search(cause, " ".join(result.failures))


# --- a record that it cannot take


@pytest.mark.fault("F17", promise="P4 P5", oracles="O5 O6")
def test_a_poison_record_fails_the_job_with_its_place_after_bounded_restarts(
    state: Path, record_property: Told
) -> None:
    def parse(n: int) -> int:
        return 100 // (n - 777)

    pipeline, _ = digits(state, act=parse)

    with pytest.raises(JobFailed, match=r"operator 'act', subtask [01]") as caught:
        pipeline.run(workers=2, state_dir=state, quiet=True, restart=TWICE, **QUICK)

    record_property("attempts", len(caught.value.history))
    assert len(caught.value.history) == 3
    assert "ZeroDivisionError" in str(caught.value)
    assert "return 100 // (n - 777)" in "\n".join(caught.value.__notes__)


@pytest.mark.fault("F17", promise="P1 P2", oracles="O1 O3")
def test_a_job_that_a_poison_record_failed_goes_on_once_the_code_is_mended(state: Path) -> None:
    def parse(n: int) -> int:
        return n if n != 1_777 else n // 0

    pipeline, _ = digits(state, 1, parse)
    with pytest.raises(JobFailed):
        pipeline.run(workers=2, state_dir=state, quiet=True, restart=NEVER_AGAIN, **QUICK)

    mended, sink = digits(state)
    result = mended.run(workers=2, state_dir=state, quiet=True, **QUICK)

    assert result.restored_from is not None
    assert_exactly_once(sink)


def nested(n: int) -> Any:
    value: Any = n
    for _ in range(50_000):
        value = [value]
    return n, value


@pytest.mark.fault("F21", promise="P5", oracles="O6")
@pytest.mark.parametrize(
    ("wrap", "cause"),
    [
        pytest.param(lambda n: (n, bytes(65 * MIB)), "takes [0-9]+ bytes", id="huge"),
        pytest.param(nested, "Recursion|recursion", id="recursive"),
        pytest.param(lambda n: (n, (x for x in [n])), "generator", id="unpicklable"),
    ],
)
def test_a_record_that_cannot_travel_is_told_where_it_was_made(
    state: Path, wrap: Callable[[int], Any], cause: str
) -> None:
    pipeline = Pipeline("travel")
    numbers = pipeline.source(FromIterable(range(20)), name="numbers")
    numbers.map(wrap, name="wrap").key_by(0).count(name="counts").sink(Discard())

    with pytest.raises(JobFailed, match="operator 'counts'") as caught:
        pipeline.run(workers=2, state_dir=state, quiet=True, restart=NEVER_AGAIN)

    assert re.search(cause, str(caught.value))


# --- memory


def too_much() -> None:
    """Ask for more than the process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**33, hard))
    try:
        bytearray(2**34)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.fault("F20", promise="P1 P5", oracles="O3 O6")
def test_memory_that_is_not_granted_costs_an_attempt_and_no_process(
    state: Path, record_property: Told
) -> None:
    if sys.platform == "darwin":
        pytest.skip("macOS does not enforce RLIMIT_AS: nothing refuses memory here")
    pipeline, sink = digits(state, 5, once_after_a_checkpoint(state, too_much))
    handle = pipeline.start(workers=2, state_dir=state, restart=TWICE, **QUICK)
    until(lambda: len(handle.worker_pids()) == 2, "two workers")
    before = handle.worker_pids()

    until(lambda: handle.status().attempt == 2 or handle.is_done, "the second attempt")
    after = handle.worker_pids()
    result = handle.wait(60)

    record_property("crashes", len(result.failures))
    assert "operator 'act', subtask" in result.failures[0]
    assert "MemoryError" in result.failures[0]
    assert after in (before, {})
    assert_exactly_once(sink)


@pytest.mark.fault("F20", promise="P1 P5", oracles="O3 O6")
def test_the_worker_that_the_kernel_kills_is_replaced_alone(state: Path) -> None:
    completed = 30
    kill = signalled(signal.SIGKILL)  # as the kernel does when memory is out
    pipeline, sink = digits(state, completed, once_after_a_checkpoint(state, kill))
    handle = pipeline.start(workers=2, state_dir=state, restart=TWICE, **QUICK)
    until(lambda: len(handle.worker_pids()) == 2, "two workers")
    before = set(handle.worker_pids().values())

    until(lambda: handle.status().attempt == 2, "the second attempt")
    after = set(handle.worker_pids().values())
    result = handle.wait(60)

    assert len(before & after) == 1
    assert "was killed by SIGKILL" in result.failures[0]
    assert_exactly_once(sink)


RECORD = 2_000
GROWTH_MIB = 96


def slow(record: bytes) -> bytes:
    threading.Event().wait(0.0001)  # and what it takes to be woken: far longer than to make one
    return record


@pytest.mark.fault("F16", promise="P4", oracles="O5")
def test_a_slow_consumer_slows_its_source_and_memory_stays_bounded(
    state: Path, record_property: Told
) -> None:
    pipeline = Pipeline("slow")
    source = pipeline.source(Generator(lambda n: (n % 7, bytes(RECORD))), name="endless")
    source.key_by(0).map(slow, name="slow").sink(Discard())
    handle = pipeline.start(
        workers=2, state_dir=state, checkpoint_interval="200ms", channel_capacity_batches=2
    )
    until(lambda: handle.status().checkpoints_completed >= 1, "a checkpoint")
    start = max(map(resident_mib, handle.worker_pids().values()))

    until(lambda: handle.status().checkpoints_completed >= 4, "four checkpoints")
    end = max(map(resident_mib, handle.worker_pids().values()))
    handle.cancel()
    handle.wait(60)

    record_property("MiB of growth", max(0, end - start))
    assert end - start < GROWTH_MIB
