from __future__ import annotations

import io

import pytest
from rich.console import Console

from flowsnap.cli.report import exit_code, report
from flowsnap.errors import (
    ConfigError,
    FlowsnapError,
    JobFailed,
    ManifestCorrupt,
    OperatorError,
    StorageError,
)


def told(error: FlowsnapError) -> str:
    console = Console(file=io.StringIO(), width=90, color_system=None, highlight=False)
    with console.capture() as capture:
        report(error, console)
    return capture.get()


def raised(error: FlowsnapError, cause: BaseException) -> FlowsnapError:
    with pytest.raises(FlowsnapError) as caught:
        raise error from cause
    return caught.value


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (JobFailed("gave up"), 1),
        (StorageError("disk full"), 1),
        (ConfigError("no such setting"), 2),
        (ManifestCorrupt("bad hash"), 3),
        (raised(JobFailed("gave up"), ManifestCorrupt("bad hash")), 3),
        (KeyboardInterrupt(), 130),
    ],
)
def test_the_exit_code_says_whose_fault_it_was(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


def test_what_where_why_and_what_to_do_are_told() -> None:
    cause = OperatorError("map failed", operator="parse", subtask=1, record="{'a': 1}")
    error = raised(JobFailed("the job failed").hint("mend the function"), cause)

    text = told(error)

    assert "where: operator 'parse', subtask 1" in text
    assert "record: {'a': 1}" in text
    assert "because: map failed" in text
    assert "→ mend the function" in text


def test_a_cause_that_the_message_already_tells_is_not_told_twice() -> None:
    text = told(raised(ConfigError("job.py cannot be loaded: KeyError: 'x'"), KeyError("x")))

    assert text.count("KeyError") == 1


def test_a_traceback_that_came_as_a_note_is_shown_and_is_no_advice() -> None:
    error = JobFailed("the job failed")
    error.add_note('Traceback (most recent call last):\n  File "job.py", line 3, in parse\n')

    text = told(error)

    assert 'File "job.py", line 3, in parse' in text
    assert "→" not in text


def test_of_an_exception_raised_here_the_users_own_lines_are_shown() -> None:
    def parse(line: str) -> int:
        return int(line)

    with pytest.raises(ValueError, match="invalid literal") as caught:
        parse("x")

    text = told(raised(ConfigError("the pipeline cannot be made"), caught.value))

    assert "because: ValueError: invalid literal for int()" in text
    assert "return int(line)" in text


def test_the_last_attempts_of_a_failed_job_are_listed() -> None:
    error = JobFailed("gave up", history=tuple(f"attempt {n}: lost" for n in range(1, 15)))

    text = told(error)

    assert "4 earlier attempts" in text
    assert "attempt 14: lost" in text
    assert "attempt 4: lost" not in text.replace("attempt 14: lost", "")


def test_a_message_is_shown_as_it_is_but_cannot_steer_the_terminal() -> None:
    text = told(ConfigError("[bold]x[/] \x1b[2J"))

    assert "[bold]x[/] \\x1b[2J" in text


def test_a_long_message_is_cut() -> None:
    assert len(told(ConfigError("x" * 10_000))) < 1_500
