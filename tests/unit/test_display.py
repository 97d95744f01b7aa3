from __future__ import annotations

import errno
import io
import logging
import os
import signal
import sys
import threading
from typing import Any

import msgspec
import pytest
from rich.console import Console, RenderableType

from flowsnap.api import format as write
from flowsnap.api.display import follow
from flowsnap.api.render import progress, progress_line, records_read, render, summary
from flowsnap.core.ids import AttemptId, CheckpointId, OperatorId
from flowsnap.errors import JobFailed
from flowsnap.runtime.status import CheckpointStatus, JobResult, JobStatus, OperatorStatus

LINES = OperatorStatus(
    name=OperatorId("lines"),
    type="TextFiles",
    parallelism=2,
    records_in=1_204_000,
    records_out=1_204_000,
    records_in_per_s=812_000.0,
    records_out_per_s=812_000.0,
    busy_share=0.31,
    backpressured_share=0.42,
    progress_done=51,
    progress_total=100,
    waits_for="count",
)
COUNT = OperatorStatus(
    name=OperatorId("count"),
    type="Aggregate",
    parallelism=3,
    records_in=1_100_000,
    records_out=9_204,
    records_in_per_s=700_000.0,
    busy_share=1.0,
)


def a_status(**changes: Any) -> JobStatus:
    values: dict[str, Any] = {
        "job": "wordcount",
        "state": "running",
        "attempt": AttemptId(2),
        "workers": 2,
        "uptime_ms": 12_340,
        "restored_from": CheckpointId(3),
        "operators": (LINES, COUNT),
    }
    return JobStatus(**(values | changes))


def a_result(**changes: Any) -> JobResult:
    values: dict[str, Any] = {
        "job": "wordcount",
        "state": "finished",
        "attempts": 1,
        "restored_from": None,
        "last_checkpoint": CheckpointId(7),
        "duration_ms": 4_200,
        "running_ms": 4_000,
    }
    return JobResult(**(values | changes))


def shown(renderable: RenderableType, width: int = 130) -> list[str]:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get().splitlines()


class Script:
    """A job that shows one status at each look and then ends; notes what it is asked to do."""

    def __init__(self, looks: int, end: JobResult | JobFailed, each: Any = lambda look: None):
        self.looks, self.end, self.each = looks, end, each
        self.look = 0
        self.asked: list[str] = []

    @property
    def is_done(self) -> bool:
        return self.look > self.looks

    def status(self) -> JobStatus:
        return a_status()

    def wait(self, timeout_s: float | None = None) -> JobResult:
        self.look += 1
        if self.look <= self.looks:
            self.each(self.look)
            raise TimeoutError
        if isinstance(self.end, JobFailed):
            raise self.end
        return self.end

    def stop(self) -> None:
        self.asked.append("stop")

    def cancel(self) -> None:
        self.asked.append("cancel")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def a_known_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0 ms"),
        (999.6, "1.0 s"),
        (59_949, "59.9 s"),
        (59_990, "1 min 00 s"),
        (185_000, "3 min 05 s"),
        (7_800_000, "2 h 10 min"),
        (3 * 86_400_000, "3 d 0 h"),
    ],
)
def test_a_duration_is_written_in_the_unit_a_person_would_choose(ms: float, text: str) -> None:
    assert write.duration(ms) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (999.7, "1.00 k"), (12_345, "12.3 k"), (1_204_000, "1.20 M")],
)
def test_a_count_is_written_with_three_digits_and_a_unit(value: float, text: str) -> None:
    assert write.count(value) == text
    assert write.rate(value) == f"{text}/s"


def test_a_size_is_written_in_units_of_1024() -> None:
    assert [write.size(n) for n in (0, 1023, 1536, 64 * 2**20, 5 * 2**50)] == [
        "0 B", "1023 B", "1.50 KB", "64.0 MB", "5120 TB",
    ]  # fmt: skip


def test_a_percentage_reaches_100_only_when_all_is_done() -> None:
    assert [write.percent(share) for share in (0.0, 0.514, 0.9999, 1.0)] == [
        "0 %", "51 %", "99 %", "100 %",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("share", "text"), [(-1, "····"), (0, "····"), (0.5, "██··"), (0.6, "██▍·"), (2, "████")]
)
def test_a_bar_is_filled_to_its_share_and_never_beyond(share: float, text: str) -> None:
    assert write.bar(share, 4, "green").plain == text


def test_the_header_says_state_attempt_workers_and_what_was_restored() -> None:
    header = shown(render(a_status()))[1]

    assert header == (
        "wordcount  running  attempt 2 · 2 workers · 12.3 s · restored from checkpoint 3"
    )


def test_a_job_without_workers_is_said_to_run_in_one_process() -> None:
    assert "in one process" in shown(render(a_status(workers=0, restored_from=None)))[1]


def test_the_row_of_an_operator_holds_its_rates_totals_shares_and_progress() -> None:
    row = shown(render(a_status(), width=130))[3].split()

    assert row[:10] == ["lines", "2", *["812", "k/s"] * 2, *["1.20", "M"] * 2]
    assert row[10:16] == ["█▌···", "31", "%", "██▏··", "42", "%"]
    assert row[16:] == ["count", "█████▏····", "51", "%"]


def test_a_narrow_terminal_gets_every_operator_whole_and_drops_what_came_in() -> None:
    lines = shown(render(a_status(), width=80), width=80)

    assert lines[2].split() == ["operator", "tasks", "out/s", "out", "busy", "waiting", "progress"]
    assert lines[3].startswith("lines")
    assert lines[3].rstrip().endswith("51 %")
    assert all(len(line) <= 80 for line in lines)


def test_the_footer_says_the_last_checkpoint_the_pending_one_and_the_last_failure() -> None:
    last = CheckpointStatus(
        checkpoint_id=CheckpointId(7), duration_ms=120, size_bytes=3 * 2**20, new_bytes=2**20
    )
    status = a_status(
        last_checkpoint=last,
        pending_checkpoint=CheckpointId(8),
        checkpoints_completed=6,
        checkpoints_failed=1,
        failures=("attempt 1: disk full", "attempt 2: worker 1 was lost\nmore of it"),
    )

    assert shown(render(status))[-2:] == [
        "checkpoint 7 took 120 ms, 3.00 MB (1.00 MB new)  6 completed, 1 failed"
        "  checkpoint 8 under way",
        "2 failures, the last: attempt 2: worker 1 was lost",
    ]


def test_names_with_square_brackets_are_shown_as_they_are() -> None:
    status = a_status(job="[red]x", failures=("[bold]y",), operators=())

    text = "\n".join(shown(render(status)))

    assert "[red]x" in text
    assert "[bold]y" in text


def test_progress_is_that_of_all_bounded_sources_together() -> None:
    assert progress(a_status()) == 0.51
    assert progress(a_status(operators=(COUNT,))) is None
    assert records_read(a_status()) == 1_204_000


def test_the_progress_line_is_one_line_with_share_records_and_checkpoint() -> None:
    assert progress_line(a_status()) == (
        "wordcount running, 51 %, 1.20 M records read, 812 k/s, no checkpoint yet"
    )


def test_the_summary_of_a_stopped_job_says_where_to_resume() -> None:
    lines = shown(summary(a_result(state="stopped"), a_status(), state_dir="out/state"))

    assert lines[0].startswith("wordcount stopped in 4.2 s, 1.20 M records read")
    assert lines[1] == (
        "to go on from checkpoint 7, run it again with the state directory out/state"
    )


def test_the_summary_of_a_cancelled_job_without_checkpoint_says_that_it_begins_anew() -> None:
    result = a_result(state="cancelled", last_checkpoint=None)

    assert "begins anew" in shown(summary(result, state_dir="out"))[1]


def test_following_a_job_returns_its_result_and_prints_the_summary() -> None:
    stream = io.StringIO()

    assert follow(Script(3, a_result()), stream=stream) == a_result()
    assert stream.getvalue().startswith("wordcount finished in 4.2 s")


def test_log_lines_of_the_runtime_are_shown_while_a_job_is_followed() -> None:
    stream = io.StringIO()
    say = logging.getLogger("flowsnap").info

    follow(Script(1, a_result(), lambda _: say("restored from [checkpoint] %d", 3)), stream=stream)

    assert "INFO    restored from [checkpoint] 3\n" in stream.getvalue()
    assert logging.getLogger("flowsnap").handlers == []
    assert logging.getLogger("flowsnap").level == logging.NOTSET


def test_log_lines_are_not_shown_twice_when_the_program_shows_them_itself() -> None:
    stream, root = io.StringIO(), logging.getLogger()
    own = logging.StreamHandler(sys.stdout)
    root.addHandler(own)
    say = logging.getLogger("flowsnap").info

    try:
        follow(Script(1, a_result(), lambda _: say("started")), stream=stream)
    finally:
        root.removeHandler(own)

    assert "started" not in stream.getvalue()


def test_in_a_terminal_the_table_is_drawn_with_log_lines_above_it() -> None:
    stream = Terminal()
    say = logging.getLogger("flowsnap").warning

    follow(Script(2, a_result(), lambda _: say("worker 1 lost")), stream=stream)

    text = stream.getvalue()
    assert "\x1b[" in text
    assert text.index("worker 1 lost") < text.rindex("operator")


def test_quiet_prints_nothing_at_all(capfd: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    say = logging.getLogger("flowsnap").warning

    follow(Script(1, a_result(), lambda _: say("worker lost")), quiet=True, stream=stream)

    assert (stream.getvalue(), capfd.readouterr()) == ("", ("", ""))


def test_the_failure_of_a_job_is_raised() -> None:
    with pytest.raises(JobFailed, match="gave up"):
        follow(Script(1, JobFailed("gave up")), stream=io.StringIO())


def interrupt(*looks: int, number: int = signal.SIGINT) -> Any:
    return lambda look: os.kill(os.getpid(), number) if look in looks else None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_interrupt_stops_the_job_in_order(number: int) -> None:
    stream = io.StringIO()
    job = Script(4, a_result(state="stopped"), interrupt(1, number=number))

    follow(job, stream=stream)

    assert job.asked == ["stop"]
    assert "stopping with a last checkpoint" in stream.getvalue()


def test_the_second_interrupt_cancels_the_job() -> None:
    job = Script(6, a_result(state="cancelled"), interrupt(1, 3))

    follow(job, stream=io.StringIO())

    assert job.asked == ["stop", "cancel"]


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_job_goes_on_when_nobody_can_read_about_it(number: int, is_terminal: bool) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(number, "closed")

        def isatty(self) -> bool:
            return is_terminal

    job = Script(3, a_result(), lambda _: logging.getLogger("flowsnap").info("started"))

    assert follow(job, stream=Closed()) == a_result()
    assert job.asked == []


def test_no_job_is_left_running_behind_an_error_of_ours() -> None:
    def fail(look: int) -> None:
        if look == 2:
            raise ZeroDivisionError

    job = Script(4, a_result(), fail)

    with pytest.raises(ZeroDivisionError):
        follow(job, stream=io.StringIO())
    assert job.asked == ["cancel"]


def test_what_steers_a_terminal_is_escaped() -> None:
    stream = io.StringIO()
    say = logging.getLogger("flowsnap").warning

    follow(Script(1, a_result(), lambda _: say("\x1b[2Jgone\r")), stream=stream)

    assert "\\x1b[2Jgone\\r" in stream.getvalue()


def test_signal_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    follow(Script(1, a_result()), stream=io.StringIO())

    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    job = Script(3, a_result(), interrupt(1, number=signal.SIGHUP))

    try:
        follow(job, stream=io.StringIO())
    finally:
        signal.signal(signal.SIGHUP, before)

    assert job.asked == []


def test_a_job_can_be_followed_from_another_thread() -> None:
    results: list[JobResult] = []
    thread = threading.Thread(
        target=lambda: results.append(follow(Script(1, a_result()), stream=io.StringIO()))
    )

    thread.start()
    thread.join(timeout=10)

    assert results == [a_result()]


def test_what_operators_count_themselves_is_shown_where_there_is_some() -> None:
    late = msgspec.structs.replace(COUNT, counters={"late": 12, "retries": 3})
    status = a_status(operators=(LINES, late))

    assert "count  12 late, 3 retries" in shown(render(status))
    assert progress_line(status).endswith("no checkpoint yet, 12 late, 3 retries")
    assert shown(summary(a_result(), status))[1] == "count  12 late, 3 retries"
    assert not any("late" in line for line in shown(render(a_status())))
