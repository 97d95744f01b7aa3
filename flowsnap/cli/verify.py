"""``flowsnap verify``: is everything that a job has stored still what it was?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

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
from flowsnap.core.ids import CheckpointId
from flowsnap.errors import RestoreError, StorageError
from flowsnap.snapshot import Snapshot, check_cut
from flowsnap.storage.job_directory import JobDirectory
from flowsnap.storage.object_url import StateDir
from flowsnap.storage.verification import Finding

_DAMAGE = ("corrupt", "missing")


@click.command("verify")
@state_dir_option
@job_option
@json_option
@log_level_option
def verify_command(state_dir: StateDir, job: str | None, is_json: bool) -> int:
    """Find damage in what a job has stored.

    Reads every file and compares it with the hash that was noted when it was stored. Then it checks
    that every checkpoint is a consistent cut: of a job that is traced, that every receive has its
    send, and that channels hold what had been sent and not received. The exit code is 3 if anything
    is damaged, missing or inconsistent.
    """
    with read_job(state_dir, job) as directory:
        console = Console(stderr=True, highlight=False, quiet=is_json)
        findings = list(_with_progress(directory, console))
        cuts = [finding for id_ in directory.checkpoints() for finding in _cut(directory, id_)]
    notable = [finding for finding in findings if finding.kind != "ok"]
    is_damaged = any(finding.kind in _DAMAGE for finding in notable)
    if is_json:
        counts = Counter(finding.kind for finding in findings)
        click.echo(msgspec.json.encode({"counts": counts, "findings": notable, "cuts": cuts}))
    else:
        _tell(notable, cuts, len(findings), Console(highlight=False))
    return CANNOT_RESTORE if is_damaged or cuts else DONE


class Inconsistency(msgspec.Struct, frozen=True):
    """A reason why a checkpoint is no consistent cut."""

    checkpoint_id: CheckpointId
    kind: str
    task: str
    detail: str


def _cut(directory: JobDirectory, checkpoint_id: CheckpointId) -> Iterator[Inconsistency]:
    """Yield what speaks against a checkpoint being a consistent cut."""
    try:
        manifest = directory.read_manifest(checkpoint_id)
        with Snapshot.of(manifest, directory.store) as snapshot:
            for finding in check_cut(snapshot):
                yield Inconsistency(checkpoint_id, finding.kind, finding.task, finding.detail)
    except (RestoreError, StorageError):
        pass  # It is among the findings, or was retired meanwhile.


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


def _tell(notable: list[Finding], cuts: list[Inconsistency], files: int, console: Console) -> None:
    for finding in notable:
        style = "bold red" if finding.kind in _DAMAGE else "dim"
        line = Text.assemble((finding.kind, style), f"  {printable(finding.name)}")
        if finding.checkpoint_id is not None:
            line.append(f"  of checkpoint {finding.checkpoint_id}")
        if finding.detail:
            line.append(f": {printable(finding.detail)}", "dim")
        console.print(line, soft_wrap=True)
    for cut in cuts:
        line = Text.assemble(("inconsistent", "bold red"), f"  checkpoint {cut.checkpoint_id}")
        console.print(line.append(f": {printable(cut.detail)}", "dim"), soft_wrap=True)
    damaged = sum(finding.kind in _DAMAGE for finding in notable)
    if damaged:
        console.print(f"[bold red]{plural(damaged, 'file')} of {files:,} damaged[/]")
    elif not cuts:
        console.print(f"[green]{plural(files, 'file')} read, nothing is damaged[/]")
