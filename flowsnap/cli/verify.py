"""``flowsnap verify``: is everything that a job has stored still what it was?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from flowsnap.api.format import plural, printable
from flowsnap.cli.options import (
    as_target,
    job_option,
    json_option,
    log_level_option,
    maybe_state_dir_option,
    read_job,
)
from flowsnap.cli.report import CANNOT_RESTORE, DONE
from flowsnap.core import manifest as manifests
from flowsnap.core.ids import CheckpointId
from flowsnap.core.manifest import CheckpointManifest
from flowsnap.errors import RestoreError, StorageError
from flowsnap.snapshot import Snapshot, check_cut
from flowsnap.snapshot.place import Place, find
from flowsnap.storage.job_directory import JobDirectory
from flowsnap.storage.object_url import StateDir
from flowsnap.storage.store import CheckpointStore
from flowsnap.storage.verification import Finding, verify_files

_DAMAGE = ("corrupt", "missing")


@click.command("verify")
@click.argument("path", metavar="[PATH|URL]", callback=as_target, required=False)
@maybe_state_dir_option
@job_option
@json_option
@log_level_option
def verify_command(
    path: StateDir | None, state_dir: StateDir | None, job: str | None, is_json: bool
) -> int:
    """Find damage in what a job has stored, or in one savepoint or checkpoint.

    Reads every file and compares it with the hash that was noted when it was stored. Then it checks
    that every checkpoint is a consistent cut: of a job that is traced, that every receive has its
    send, and that channels hold what had been sent and not received. The exit code is 3 if anything
    is damaged, missing or inconsistent.
    """
    if (path is None) == (state_dir is None):
        raise click.UsageError("give --state-dir, or the place of a savepoint or a checkpoint")
    console = Console(stderr=True, highlight=False, quiet=is_json)
    if path is not None:
        findings, cuts = _of_one(find(path, job), console)
    else:
        assert state_dir is not None
        with read_job(state_dir, job) as directory:
            findings = list(_shown(directory.verify(), _sizes(directory), console))
            cuts = [cut for id_ in directory.checkpoints() for cut in _cut_of(directory, id_)]
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


def _of_one(place: Place, console: Console) -> tuple[list[Finding], list[Inconsistency]]:
    """Return what there is to say of one snapshot."""
    handles = manifests.files(place.manifest)
    sizes = {handle.path: handle.size_bytes for handle in handles}
    findings = list(_shown(verify_files(place.store, place.manifest), sizes, console))
    return findings, list(_cut(place.manifest, place.store))


def _cut_of(directory: JobDirectory, checkpoint_id: CheckpointId) -> Iterator[Inconsistency]:
    try:
        manifest = directory.read_manifest(checkpoint_id)
    except (RestoreError, StorageError):
        return  # It is among the findings, or was retired meanwhile.
    yield from _cut(manifest, directory.store)


def _cut(manifest: CheckpointManifest, store: CheckpointStore) -> Iterator[Inconsistency]:
    """Yield what speaks against a checkpoint being a consistent cut."""
    number = manifest.checkpoint_id
    try:
        with Snapshot.of(manifest, store) as snapshot:
            for finding in check_cut(snapshot):
                yield Inconsistency(number, finding.kind, finding.task, finding.detail)
    except (RestoreError, StorageError):
        pass  # It is among the findings, or was retired meanwhile.


def _shown(
    findings: Iterable[Finding], sizes: dict[str, int], console: Console
) -> Iterator[Finding]:
    """Yield the findings, with a bar of the bytes that have been read."""
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
        for finding in findings:
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
