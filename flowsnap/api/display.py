"""Following a running job: a live table in a terminal, plain lines elsewhere, an orderly Ctrl-C."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any, Protocol, cast

from rich.console import Console
from rich.live import Live
from rich.text import Text

from flowsnap.api.format import printable
from flowsnap.api.render import progress_line, render, summary
from flowsnap.errors import FlowsnapError
from flowsnap.runtime.status import JobResult, JobStatus

REFRESH_S = 0.25
PROGRESS_EVERY_S = 5.0
ABANDON_S = 30.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LEVEL_STYLES = {"WARNING": "yellow", "ERROR": "bold red", "CRITICAL": "bold red", "DEBUG": "dim"}


class Handle(Protocol):
    """What is followed: ``flowsnap.runtime.job.JobHandle``."""

    @property
    def is_done(self) -> bool:
        """Return whether the job has ended, in whatever way."""
        ...

    def status(self) -> JobStatus:
        """Return the job as it is now."""
        ...

    def wait(self, timeout_s: float | None = None) -> JobResult:
        """Return the result; raises TimeoutError if the job goes on, JobFailed if it failed."""
        ...

    def stop(self) -> None:
        """Ask the job to end with a last checkpoint; returns at once."""
        ...

    def cancel(self) -> None:
        """Ask the job to end now; returns at once."""
        ...


def follow(
    handle: Handle,
    *,
    quiet: bool = False,
    stream: IO[str] | None = None,
    state_dir: Path | str | None = None,
) -> JobResult:
    """Show a job until it ends, and return its result.

    The first Ctrl-C, SIGTERM or SIGHUP stops the job with a last checkpoint; the second cancels it.
    Signals are taken only in the main thread and given back afterwards. ``stream`` is stderr by
    default; ``state_dir`` is what the summary names as the place to resume from.

    Raises:
        JobFailed: the job failed, and was not or no longer restarted.
    """
    lasting = cast(IO[str], _Lasting(stream or sys.stderr))
    console = Console(file=lasting, highlight=False, quiet=quiet)
    with ExitStack() as stack:
        stack.enter_context(_log_lines(console, is_quiet=quiet))
        interrupts = stack.enter_context(_interrupts())
        if console.is_terminal and not quiet:
            show = stack.enter_context(_live(console, handle.status()))
        else:
            show = _lines(console)
        try:
            result = _until_done(handle, interrupts, show, console)
            show(handle.status())
        finally:
            _abandon(handle)
    console.print(summary(result, handle.status(), state_dir=state_dir), soft_wrap=True)
    return result


class _Lasting:
    """A stream that takes everything, also when nobody can read it any more: the job matters more.

    Without it a closed pipe or a terminal that is gone would end the job's process.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Interrupts:
    """How often the user asked for an end. The handler only counts; the loop acts."""

    def __init__(self) -> None:
        self.asked = 0
        self._answered = 0

    def take(self, *_: int | FrameType | None) -> None:
        self.asked += 1

    def answer(self, handle: Handle, console: Console) -> None:
        if self.asked == self._answered or handle.is_done:
            return
        is_first, self._answered = self._answered == 0, self.asked
        if is_first and self.asked == 1:
            _print_line(
                console, "stopping with a last checkpoint; Ctrl-C again cancels at once", "yellow"
            )
            handle.stop()
        else:
            _print_line(
                console, "cancelling: what came after the last checkpoint is given up", "red"
            )
            handle.cancel()


def _abandon(handle: Handle) -> None:
    """Leave no job running behind an error that is not the job's."""
    if not handle.is_done:
        handle.cancel()
        with suppress(FlowsnapError, TimeoutError):
            handle.wait(timeout_s=ABANDON_S)


def _until_done(
    handle: Handle, interrupts: _Interrupts, show: Callable[[JobStatus], None], console: Console
) -> JobResult:
    while True:
        interrupts.answer(handle, console)
        try:
            return handle.wait(timeout_s=REFRESH_S)
        except TimeoutError:
            show(handle.status())


@contextmanager
def _live(console: Console, status: JobStatus) -> Iterator[Callable[[JobStatus], None]]:
    """Yield a function that redraws the table; what is printed meanwhile stands above it."""
    first = render(status, width=console.width)
    with Live(first, console=console, auto_refresh=False, redirect_stdout=False) as live:
        yield lambda now: live.update(render(now, width=console.width), refresh=True)


def _lines(console: Console) -> Callable[[JobStatus], None]:
    """Return a function that prints a line of progress once in a while."""
    due_s = time.monotonic() + PROGRESS_EVERY_S

    def show(status: JobStatus) -> None:
        nonlocal due_s
        if time.monotonic() >= due_s:
            due_s = time.monotonic() + PROGRESS_EVERY_S
            _print_line(console, f"{time.strftime('%H:%M:%S')} INFO    {progress_line(status)}")

    return show


class _ConsoleHandler(logging.Handler):
    """Prints the log lines of the runtime, above the table where there is one."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        style = _LEVEL_STYLES.get(record.levelname, "")
        _print_line(self._console, f"{clock} {record.levelname:<7} {record.getMessage()}", style)


def _print_line(console: Console, line: str, style: str = "") -> None:
    console.print(Text(printable(line), style=style), soft_wrap=True)


@contextmanager
def _log_lines(console: Console, *, is_quiet: bool) -> Iterator[None]:
    """Show what the logger ``flowsnap`` says, unless the program already shows it itself."""
    logger = logging.getLogger("flowsnap")
    level = logger.level
    handler = logging.NullHandler() if is_quiet else _ConsoleHandler(console)
    if not is_quiet and _is_shown_already(logger):
        handler = logging.NullHandler()
    logger.addHandler(handler)
    if level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _is_shown_already(logger: logging.Logger) -> bool:
    handlers = [*logger.handlers, *logging.getLogger().handlers]
    streams = {getattr(handler, "stream", None) for handler in handlers}
    return bool(streams & {sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__} - {None})


@contextmanager
def _interrupts() -> Iterator[_Interrupts]:
    """Count signals instead of dying from them, in the main thread; what is ignored stays so."""
    interrupts = _Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    former = {number: signal.signal(number, interrupts.take) for number in heard}
    try:
        yield interrupts
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
