"""``flowsnap verify``: is everything that a job has stored still what it was?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from flowsnap.api.format import plural, printable
from flowsnap.cli.options import (
    job_option,
    json_option,
    log_level_option,
    read_job,
    state_dir_option,
)
from flowsnap.cli.report import CANNOT_RESTORE, DONE
from flowsnap.core import manifest as manifests
from flowsnap.errors import RestoreError, StorageError
from flowsnap.storage.job_directory import JobDirectory
from flowsnap.storage.verification import Finding

_DAMAGE = ("corrupt", "missing")


@click.command("verify")
@state_dir_option
@job_option
@json_option
@log_level_option
def verify_command(state_dir: Path, job: str | None, is_json: bool) -> int:
    """Find damage in what a job has stored.

    Reads every file and compares it with the hash that was noted when it was stored. The exit
    code is 3 if anything is damaged or missing.
    """
    with read_job(state_dir, job) as directory:
        console = Console(stderr=True, highlight=False, quiet=is_json)
        findings = list(_with_progress(directory, console))
    notable = [finding for finding in findings if finding.kind != "ok"]
    is_damaged = any(finding.kind in _DAMAGE for finding in notable)
    if is_json:
        counts = Counter(finding.kind for finding in findings)
        click.echo(msgspec.json.encode({"counts": counts, "findings": notable}))
    else:
        _tell(notable, len(findings), Console(highlight=False))
    return CANNOT_RESTORE if is_damaged else DONE


def _with_progress(directory: JobDirectory, console: Console) -> Iterator[Finding]:
    """Yield the findings, with a bar of the bytes that have been read."""
    sizes = _sizes(directory)
    bar = Progress(
        TextColumn("reading"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("reading", total=sum(sizes.values()))
        for finding in directory.verify():
            bar.advance(task, sizes.pop(finding.name, 0))
            yield finding


def _sizes(directory: JobDirectory) -> dict[str, int]:
    """Return how large each file is that a readable manifest lists."""
    sizes: dict[str, int] = {}
    for checkpoint_id in directory.checkpoints():
        try:
            manifest = directory.read_manifest(checkpoint_id)
        except (RestoreError, StorageError):
            continue  # It will be among the findings.
        sizes.update({handle.path: handle.size_bytes for handle in manifests.files(manifest)})
    return sizes


def _tell(notable: list[Finding], files: int, console: Console) -> None:
    for finding in notable:
        style = "bold red" if finding.kind in _DAMAGE else "dim"
        line = Text.assemble((finding.kind, style), f"  {printable(finding.name)}")
        if finding.checkpoint_id is not None:
            line.append(f"  of checkpoint {finding.checkpoint_id}")
        if finding.detail:
            line.append(f": {printable(finding.detail)}", "dim")
        console.print(line, soft_wrap=True)
    damaged = sum(finding.kind in _DAMAGE for finding in notable)
    if damaged:
        console.print(f"[bold red]{plural(damaged, 'file')} of {files:,} damaged[/]")
    else:
        console.print(f"[green]{plural(files, 'file')} read, nothing is damaged[/]")
