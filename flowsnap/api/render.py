"""What a job looks like in a terminal: pure functions from its status to what rich can print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from flowsnap.api import format as write
from flowsnap.runtime.status import CheckpointStatus, JobResult, JobStatus, OperatorStatus

WIDE_COLUMNS = 110  # from here on there is room for what came in, beside what went out
_STATE_STYLES = {
    "running": "bold green",
    "finished": "bold green",
    "stopped": "bold yellow",
    "stopping": "bold yellow",
    "restarting": "bold yellow",
    "cancelling": "bold red",
    "cancelled": "bold red",
    "failed": "bold red",
}


def render(status: JobStatus, *, width: int = 100) -> RenderableType:
    """Return a job at one moment as a header, a table of its operators and a footer."""
    parts: list[RenderableType] = [Rule(style="dim"), _header(status)]
    if status.operators:
        parts.append(_operators(status.operators, is_wide=width >= WIDE_COLUMNS))
        parts += _counters(status.operators)
    parts.append(_footer(status))
    if status.failures:
        parts.append(_failures(status.failures))
    return Group(*parts)


def progress_line(status: JobStatus) -> str:
    """Return a job at one moment as one line of plain text, for logs."""
    parts = [f"{status.job} {status.state}"]
    if (done := progress(status)) is not None:
        parts.append(write.percent(done))
    parts.append(f"{write.count(records_read(status))} records read")
    parts.append(write.rate(sum(op.records_out_per_s for op in _sources(status.operators))))
    parts.append(_checkpoint(status.last_checkpoint))
    parts += _counted(_totals(status.operators))
    if status.failures:
        parts.append(write.plural(len(status.failures), "failure"))
    return ", ".join(parts)


def progress(status: JobStatus) -> float | None:
    """Return the share (0 to 1) of the bounded input that has been read; None where none is."""
    bounded = [op for op in status.operators if op.progress_total]
    total = sum(op.progress_total for op in bounded)
    return sum(op.progress_done for op in bounded) / total if total else None


def records_read(status: JobStatus) -> int:
    """Return the number of records that the sources have read in this attempt."""
    return sum(op.records_out for op in _sources(status.operators))


def summary(
    result: JobResult, status: JobStatus | None = None, *, state_dir: Path | str | None = None
) -> RenderableType:
    """Return how a job ended, and where it can be resumed."""
    style = _STATE_STYLES.get(result.state, "bold")
    line = Text.assemble(
        (result.job, "bold"),
        " ",
        (result.state, style),
        f" in {write.duration(result.duration_ms)}",
    )
    if status is not None and (read := records_read(status)):
        line.append(f", {write.count(read)} records read")
        if status.attempt > 1 or status.restored_from is not None:
            line.append(" since the last start")
    if status is not None and status.checkpoints_completed:
        line.append(f", {write.plural(status.checkpoints_completed, 'checkpoint')}")
    if result.failures:
        line.append(f", {write.plural(len(result.failures), 'failure')} survived", "yellow")
    counters = [] if status is None else _counters(status.operators)
    return Group(line, *counters, *_resumption(result, state_dir))


def _resumption(result: JobResult, state_dir: Path | str | None) -> list[Text]:
    if result.state == "finished" or state_dir is None:
        return []
    if result.last_checkpoint is None:
        return [Text("no checkpoint was completed: the next run begins anew", style="yellow")]
    return [
        Text.assemble(
            "to go on from ",
            (f"checkpoint {result.last_checkpoint}", "bold"),
            ", run it again with the state directory ",
            (str(state_dir), "bold"),
        )
    ]


def _header(status: JobStatus) -> Text:
    style = _STATE_STYLES.get(status.state, "bold cyan")
    workers = write.plural(status.workers, "worker") if status.workers else "in one process"
    facts = [f"attempt {status.attempt}", workers, write.duration(status.uptime_ms)]
    if status.restored_from is not None:
        facts.append(f"restored from checkpoint {status.restored_from}")
    return Text.assemble(
        (status.job, "bold"), "  ", (status.state, style), "  ", (" · ".join(facts), "dim")
    )


def _operators(operators: Sequence[OperatorStatus], *, is_wide: bool) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("operator", overflow="ellipsis", no_wrap=True, min_width=8)
    table.add_column("tasks", justify="right", min_width=5)
    for name in ("in/s", "out/s", "in", "out") if is_wide else ("out/s", "out"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("busy", no_wrap=True)
    table.add_column("waiting", no_wrap=True)
    if any(op.progress_total for op in operators):
        table.add_column("progress", no_wrap=True)
    for operator in operators:
        table.add_row(*_row(operator, is_wide=is_wide))
    return table


def _row(operator: OperatorStatus, *, is_wide: bool) -> list[RenderableType]:
    cells: list[RenderableType] = [Text(operator.name), str(operator.parallelism)]
    if is_wide:
        cells.append(write.rate(operator.records_in_per_s))
    cells.append(write.rate(operator.records_out_per_s))
    if is_wide:
        cells.append(write.count(operator.records_in))
    cells.append(write.count(operator.records_out))
    cells.append(_share(operator.busy_share, "green", is_wide))
    waiting = _share(operator.backpressured_share, "red", is_wide)
    cells.append(waiting.append(f" {operator.waits_for}" if is_wide else "", "dim"))
    if operator.progress_total:
        done = operator.progress_done / operator.progress_total
        bar = write.bar(done, 10 if is_wide else 6, "cyan")
        cells.append(bar.append(f" {write.percent(done):>5}"))
    return cells


def _share(share: float, style: str, is_wide: bool) -> Text:
    return write.bar(share, 5 if is_wide else 3, style).append(f" {write.percent(share):>5}", "dim")


def _counters(operators: Sequence[OperatorStatus]) -> list[Text]:
    """Return a line for each operator that has counted something itself."""
    return [
        Text.assemble((operator.name, "bold"), f"  {', '.join(_counted(operator.counters))}")
        for operator in operators
        if operator.counters
    ]


def _counted(counters: Mapping[str, int]) -> list[str]:
    return [
        f"{write.count(number)} {write.printable(name)}"
        for name, number in counters.items()
        if number
    ]


def _totals(operators: Sequence[OperatorStatus]) -> Counter[str]:
    return sum((Counter(operator.counters) for operator in operators), Counter())


def _footer(status: JobStatus) -> Text:
    line = Text(
        _checkpoint(status.last_checkpoint), style="dim" if not status.last_checkpoint else ""
    )
    counts = [f"{status.checkpoints_completed:,} completed"] if status.checkpoints_completed else []
    if status.checkpoints_failed:
        counts.append(f"{status.checkpoints_failed:,} failed")
    if counts:
        line.append(f"  {', '.join(counts)}", "dim")
    if status.pending_checkpoint is not None:
        line.append(f"  checkpoint {status.pending_checkpoint} under way", "cyan")
    return line


def _checkpoint(checkpoint: CheckpointStatus | None) -> str:
    if checkpoint is None:
        return "no checkpoint yet"
    return (
        f"checkpoint {checkpoint.checkpoint_id} took {write.duration(checkpoint.duration_ms)}, "
        f"{write.size(checkpoint.size_bytes)} ({write.size(checkpoint.new_bytes)} new)"
    )


def _failures(failures: Sequence[str]) -> Text:
    last = write.printable(failures[-1].partition("\n")[0])
    return Text.assemble(
        (write.plural(len(failures), "failure"), "bold yellow"), f", the last: {last}"
    )


def _sources(operators: Sequence[OperatorStatus]) -> list[OperatorStatus]:
    """Return the sources, as far as a status tells: the first operator, and those with an end."""
    return [op for index, op in enumerate(operators) if index == 0 or op.progress_total]
