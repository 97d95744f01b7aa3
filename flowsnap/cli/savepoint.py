"""``flowsnap savepoint``: make a savepoint, of a running job or of one that has ended."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from flowsnap.cli.asking import ask, is_running, shown, waiting
from flowsnap.cli.options import (
    job_option,
    json_option,
    log_level_option,
    read_job,
    state_dir_option,
    timeout_option,
    to_option,
)
from flowsnap.cli.report import DONE
from flowsnap.errors import FlowsnapError, RestoreError
from flowsnap.storage import keeping
from flowsnap.storage.object_url import StateDir, as_state_dir
from flowsnap.storage.opening import open_job


@click.command("savepoint")
@state_dir_option
@job_option
@click.option("--name", default="", help="What to call it; its checkpoint's number by default.")
@to_option
@timeout_option
@json_option
@log_level_option
def savepoint_command(
    state_dir: StateDir,
    job: str | None,
    name: str,
    target: StateDir | None,
    timeout: str,
    **options: bool,
) -> int:
    """Make a savepoint: a checkpoint of its own, which is yours to keep.

    A running job is asked for it and goes on. Of a job that does not run it is made from the newest
    checkpoint. Nothing but you ever deletes it.
    """
    with read_job(state_dir, job) as directory:
        keeping.check_new(directory, name)
        if target is not None:
            keeping.check_target(target)
        if is_running(directory):
            made = ask(directory, "savepoint", savepoint=name, timeout=timeout).savepoint
            place = as_state_dir(made)
        else:
            place = _of_ended(state_dir, directory.job, name)
    place = moved(place, target)
    if options["is_json"]:
        manifest = keeping.find(place).manifest
        click.echo(
            msgspec.json.encode({"savepoint": str(place), "checkpoint": manifest.checkpoint_id})
        )
    else:
        click.echo(shown(place))
    return DONE


def moved(place: StateDir, target: StateDir | None) -> StateDir:
    """Move a savepoint that was made to where it is wanted, and return where it is then.

    The copy is complete before anything is deleted; where either fails, the hint tells what there
    is.
    """
    if target is None:
        return place
    with waiting(f"copying the savepoint to {target}"):
        try:
            keeping.copy(keeping.find(place), target)
        except FlowsnapError as error:
            error.hint(f"the savepoint was made, and is still at {place}")
            raise
        try:
            keeping.remove(place)
        except FlowsnapError as error:
            error.hint(f"the copy at {target} is complete; delete what is left at {place}")
            raise
    return target.absolute() if isinstance(target, Path) else target


def _of_ended(state_dir: StateDir, job: str, name: str) -> StateDir:
    with open_job(state_dir, job) as directory:  # with its lock: nobody retires meanwhile
        manifest = directory.latest()
        if manifest is None:
            raise RestoreError(f"job {job} has no checkpoint to make a savepoint of").hint(
                "it has never completed one, or was started over"
            )
        return keeping.export(directory, manifest.checkpoint_id, name)
