"""``flowsnap savepoint``: make a savepoint, of a running job or of one that has ended."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from flowsnap.cli.asking import ask, is_running, shown
from flowsnap.cli.options import (
    job_option,
    json_option,
    log_level_option,
    read_job,
    state_dir_option,
    timeout_option,
)
from flowsnap.cli.report import DONE
from flowsnap.errors import RestoreError
from flowsnap.storage import export
from flowsnap.storage.object_url import StateDir
from flowsnap.storage.opening import open_job
from flowsnap.storage.savepoint import find


@click.command("savepoint")
@state_dir_option
@job_option
@click.option("--name", default="", help="What to call it; its checkpoint's number by default.")
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path),
    help="Move it there: a directory to be made, on any file system.",
)
@timeout_option
@json_option
@log_level_option
def savepoint_command(
    state_dir: StateDir,
    job: str | None,
    name: str,
    target: Path | None,
    timeout: str,
    **options: bool,
) -> int:
    """Make a savepoint: a checkpoint of its own, which is yours to keep.

    A running job is asked for it and goes on. Of a job that does not run it is made from the newest
    checkpoint. Nothing but you ever deletes it.
    """
    with read_job(state_dir, job) as directory:
        export.check_new(directory, name)
        if target is not None:
            export.check_target(target)
        if is_running(directory):
            path = Path(ask(directory, "savepoint", savepoint=name, timeout=timeout).savepoint)
        else:
            path = _of_ended(state_dir, directory.job, name)
    if target is not None:
        export.copy(find(path), target)
        export.remove(path)
        path = target.absolute()
    if options["is_json"]:
        manifest = find(path).manifest
        click.echo(
            msgspec.json.encode({"savepoint": str(path), "checkpoint": manifest.checkpoint_id})
        )
    else:
        click.echo(shown(path))
    return DONE


def _of_ended(state_dir: StateDir, job: str, name: str) -> Path:
    with open_job(state_dir, job) as directory:  # with its lock: nobody retires meanwhile
        manifest = directory.latest()
        if manifest is None:
            raise RestoreError(f"job {job} has no checkpoint to make a savepoint of").hint(
                "it has never completed one, or was started over"
            )
        return export.export(directory, manifest.checkpoint_id, name)
