"""``flowsnap checkpoints``: which checkpoints a job can go on from."""

from __future__ import annotations

import time

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flowsnap.api import format as write
from flowsnap.cli.options import (
    job_option,
    json_option,
    log_level_option,
    read_job,
    state_dir_option,
)
from flowsnap.core import manifest as manifests
from flowsnap.core.ids import CheckpointId
from flowsnap.errors import RestoreError, StorageError
from flowsnap.storage import keeping
from flowsnap.storage.job_directory import JobDirectory
from flowsnap.storage.object_url import StateDir


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One checkpoint as it is listed; ``error`` says why it cannot be read."""

    id: CheckpointId
    state: str
    kind: str = ""
    attempt: int = 0
    triggered_at_ms: int = 0
    duration_ms: int = 0
    size_bytes: int = 0
    new_bytes: int = 0
    error: str = ""


@click.command("checkpoints")
@state_dir_option
@job_option
@json_option
@log_level_option
def checkpoints_command(state_dir: StateDir, job: str | None, is_json: bool) -> int:
    """List the checkpoints of a job, the newest last, and then its savepoints.

    Says what their manifests say; "flowsnap verify" reads the files, too.
    """
    with read_job(state_dir, job) as directory:
        lines = [_line(directory, checkpoint_id) for checkpoint_id in directory.checkpoints()]
        savepoints = keeping.of_job(directory)
        unfinished = keeping.unfinished(directory)
    if is_json:
        click.echo(msgspec.json.encode(lines))
    elif lines:
        Console(highlight=False).print(_table(lines))
    else:
        click.echo("no checkpoint has been completed")
    if savepoints and not is_json:
        click.echo("\nsavepoints, which --restore takes:")
        for path in savepoints.values():
            click.echo(f"  {write.printable(str(path))}")
    if unfinished and not is_json:
        click.echo("\nsavepoints that are not finished; the next run deletes those of the dead:")
        for name, by in unfinished.items():
            click.echo(f"  {write.printable(f'{name}: {by}')}")
    return 0


def _line(directory: JobDirectory, checkpoint_id: CheckpointId) -> Line:
    try:
        manifest = directory.read_manifest(checkpoint_id)
    except (RestoreError, StorageError) as error:
        return Line(id=checkpoint_id, state="damaged", error=str(error))
    return Line(
        id=checkpoint_id,
        state="complete",
        kind=manifest.kind,
        attempt=manifest.attempt,
        triggered_at_ms=manifest.triggered_at_ms,
        duration_ms=manifest.duration_ms,
        size_bytes=manifests.size_bytes(manifest),
        new_bytes=manifests.new_bytes(manifest),
    )


def _table(lines: list[Line]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for name in ("id", "time", "took", "size", "new", "state"):
        is_number = name in {"id", "took", "size", "new"}
        table.add_column(name, justify="right" if is_number else "left", no_wrap=is_number)
    for line in lines:
        table.add_row(*_cells(line))
    return table


def _plain(text: str) -> str:
    return escape(write.printable(text))


def _cells(line: Line) -> list[str]:
    if line.error:
        return [str(line.id), "", "", "", "", f"[red]damaged[/]: {_plain(line.error)}"]
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line.triggered_at_ms / 1000))
    kind = "" if line.kind == "checkpoint" else f" ({line.kind})"
    return [
        str(line.id),
        clock,
        write.duration(line.duration_ms),
        write.size(line.size_bytes),
        write.size(line.new_bytes),
        f"[green]complete[/]{kind}",
    ]
