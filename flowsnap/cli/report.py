"""How an error is told: what, where, why, and what to do; and the exit code it means."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.text import Text

import flowsnap
from flowsnap.api.format import printable
from flowsnap.errors import (
    ConfigError,
    FlowsnapError,
    JobFailed,
    OperatorError,
    RestoreError,
)

DONE, FAILED, WRONG_USE, CANNOT_RESTORE, INTERRUPTED = 0, 1, 2, 3, 130
_CAUSES_MAX = 4
_HISTORY_MAX = 10
_MESSAGE_MAX = 400
_OWN_FILES = str(Path(flowsnap.__file__).parent)
_IMPORTLIB = str(Path(importlib.__file__).parent)
_TITLES = {
    FAILED: "the job failed",
    WRONG_USE: "this cannot run",
    CANNOT_RESTORE: "this cannot be restored",
}


def exit_code(error: BaseException) -> int:
    """Return what the process ends with."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if any(isinstance(link, RestoreError) for link in _chain(error)):
        return CANNOT_RESTORE
    return WRONG_USE if isinstance(error, ConfigError) else FAILED


def report(error: FlowsnapError, console: Console) -> None:
    """Print an error as one block: what happened, where, why, and what to do."""
    code = exit_code(error)
    title = _TITLES[code] if isinstance(error, JobFailed) or code != FAILED else "failed"
    console.print(
        Panel(
            Group(*_block(error)),
            title=Text(title, style="bold red"),
            title_align="left",
            border_style="red",
            padding=(0, 1),
        )
    )


def _block(error: FlowsnapError) -> Iterator[RenderableType]:
    chain = list(_chain(error))
    yield _text(_shortened(str(error)), "bold")
    for link in chain:
        if isinstance(link, OperatorError):
            yield _labelled("where", f"operator {link.operator!r}, subtask {link.subtask}")
            if link.record:
                yield _labelled("record", _shortened(link.record))
    causes = [_cause(link) for link in chain[1:_CAUSES_MAX]]
    for cause in causes:
        if cause not in str(error):
            yield _labelled("because", cause)
    for trace in _user_traces(chain):
        yield Text()
        yield _text(trace.rstrip(), "dim")
    yield from _history(error)
    yield from _advice(chain)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__


def _cause(error: BaseException) -> str:
    message = _shortened(str(error))
    if isinstance(error, FlowsnapError):
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _user_traces(chain: list[BaseException]) -> Iterator[str]:
    """Yield the traceback in the user's code: carried as a note from a worker, or raised here."""
    carried = [note for link in chain for note in _notes(link) if _is_trace(note)]
    if carried:
        yield carried[0]
        return
    foreign = next((link for link in chain if not isinstance(link, FlowsnapError)), None)
    if foreign is None or foreign.__traceback__ is None:
        return
    frames = [
        frame
        for frame in traceback.extract_tb(foreign.__traceback__)
        if not frame.filename.startswith((_OWN_FILES, _IMPORTLIB, "<frozen"))
        and "site-packages" not in frame.filename
    ]
    if frames:
        yield "Traceback (most recent call last):\n" + "".join(traceback.format_list(frames))


def _history(error: FlowsnapError) -> Iterator[Text]:
    history = error.history if isinstance(error, JobFailed) else ()
    if len(history) > 1:
        yield Text()
        yield Text("what was tried", style="bold")
        if len(history) > _HISTORY_MAX:
            yield _text(f"  ({len(history) - _HISTORY_MAX} earlier attempts)", "dim")
        for line, same in groupby(history[-_HISTORY_MAX:]):
            times = len(list(same))
            yield _text(f"  {_shortened(line)}{f' ({times} times)' if times > 1 else ''}")


def _advice(chain: list[BaseException]) -> Iterator[Text]:
    notes = [note for link in chain for note in _notes(link) if not _is_trace(note)]
    if notes:
        yield Text()
    for note in dict.fromkeys(notes):
        yield Text.assemble(("→ ", "bold green"), printable(note))


def _notes(error: BaseException) -> list[str]:
    return getattr(error, "__notes__", [])


def _is_trace(note: str) -> bool:
    return note.lstrip().startswith("Traceback (")


def _labelled(label: str, text: str) -> Text:
    return Text.assemble((f"{label}: ", "dim"), printable(text))


def _text(text: str, style: str = "") -> Text:
    return Text(printable(text), style=style)


def _shortened(message: str) -> str:
    return message if len(message) <= _MESSAGE_MAX else f"{message[:_MESSAGE_MAX]} ..."
