"""``flowsnap stop`` and ``flowsnap cancel``: end a running job from outside."""

from __future__ import annotations

import click

from flowsnap.cli.asking import ask, check_running, shown
from flowsnap.cli.options import (
    job_option,
    log_level_option,
    read_job,
    state_dir_option,
    timeout_option,
    to_option,
)
from flowsnap.cli.report import DONE
from flowsnap.cli.savepoint import moved
from flowsnap.errors import ConfigError
from flowsnap.storage import keeping
from flowsnap.storage.object_url import StateDir, as_state_dir


@click.command("stop")
@state_dir_option
@job_option
@click.option(
    "--savepoint",
    is_flag=False,
    flag_value="",
    metavar="[NAME]",
    help="Make a savepoint of the last checkpoint, called NAME or after its number.",
)
@click.option(
    "--drain",
    is_flag=True,
    help="End the input: every window fires, and the job is finished for good.",
)
@to_option
@timeout_option
@log_level_option
def stop_command(
    state_dir: StateDir,
    job: str | None,
    savepoint: str | None,
    target: StateDir | None,
    drain: bool,
    timeout: str,
) -> int:
    """Stop a running job with a last checkpoint.

    All its output is committed. Without --drain windows stay open, and the job goes on where it was
    when it is run again; with it, the input ends as if all had been read.
    """
    if target is not None and savepoint is None:
        raise ConfigError("--to says where the savepoint goes: give --savepoint as well")
    with read_job(state_dir, job) as directory:
        check_running(directory, "stop")
        if savepoint is not None:
            keeping.check_new(directory, savepoint)
        if target is not None:
            keeping.check_target(target)
        result = ask(directory, "stop", savepoint=savepoint, is_drain=drain, timeout=timeout)
        click.echo(f"job {directory.job} is {result.state}")
    if result.savepoint:
        click.echo(shown(moved(as_state_dir(result.savepoint), target)))
    return DONE


@click.command("cancel")
@state_dir_option
@job_option
@timeout_option
@log_level_option
def cancel_command(state_dir: StateDir, job: str | None, timeout: str) -> int:
    """Cancel a running job: it ends at once.

    What came after its newest checkpoint is given up, and is read again when the job is run again.
    """
    with read_job(state_dir, job) as directory:
        check_running(directory, "cancel")
        result = ask(directory, "cancel", timeout=timeout)
        click.echo(f"job {directory.job} is {result.state}")
    return DONE
