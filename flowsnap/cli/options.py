"""Arguments and options that several commands share."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from flowsnap.errors import ConfigError
from flowsnap.storage import opening
from flowsnap.storage.job_directory import JobDirectory
from flowsnap.storage.object_url import WORK_VARIABLE, StateDir, as_state_dir

Command = TypeVar("Command", bound=Callable[..., Any])

STATE_DIR = "DIRECTORY|URL"
_LEVELS = ("debug", "info", "warning", "error")


def _set_level(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        logging.getLogger("flowsnap").setLevel(value.upper())


def _set_work_directory(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> None:
    if value is not None:
        os.environ[WORK_VARIABLE] = value


def is_debug() -> bool:
    """Return whether ``--log-level debug`` was given."""
    return logging.getLogger("flowsnap").level == logging.DEBUG


def as_place(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> StateDir | None:
    """Return the directory, or the place in object storage, that an option names."""
    place = None if value is None else as_state_dir(value)
    if isinstance(place, Path) and place.exists() and not place.is_dir():
        raise click.BadParameter(f"Directory {value!r} is a file.", context, parameter)
    return place


def as_target(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> StateDir | None:
    """Return the place that is to be made."""
    return None if value is None else as_state_dir(value)


target_argument = click.argument("target", metavar="TARGET")
argument_option = click.option(
    "--arg",
    "-a",
    "arguments",
    multiple=True,
    metavar="KEY=VALUE",
    help="A parameter of the function that makes the pipeline; may be repeated.",
)
work_dir_option = click.option(
    "--work-dir",
    type=click.Path(file_okay=False),
    callback=_set_work_directory,
    expose_value=False,
    help="Where the local files of a job lie whose state directory is a URL.",
)


def _state_dir_option(*, is_required: bool) -> Callable[[Command], Command]:
    text = "Where checkpoints are kept: a directory, or a URL such as s3://bucket/prefix."
    option = click.option(
        "--state-dir", metavar=STATE_DIR, callback=as_place, required=is_required, help=text
    )
    return lambda command: option(work_dir_option(command))


state_dir_option = _state_dir_option(is_required=True)
maybe_state_dir_option = _state_dir_option(is_required=False)


job_option = click.option("--job", help="The job; needed if the directory holds several.")
timeout_option = click.option(
    "--timeout",
    default="10m",
    show_default=True,
    metavar="DURATION",
    help="How long to wait for the job.",
)
to_option = click.option(
    "--to",
    "target",
    metavar=STATE_DIR,
    callback=as_target,
    help="Move it there: a directory to be made on any file system, or a URL.",
)
json_option = click.option("--json", "is_json", is_flag=True, help="For programs.")
log_level_option = click.option(
    "--log-level",
    type=click.Choice(_LEVELS, case_sensitive=False),
    callback=_set_level,
    expose_value=False,
    help="What is logged; debug also shows the traceback of an error.",
)


def read_job(state_dir: StateDir, job: str | None) -> JobDirectory:
    """Open the directory of a job for reading; without a name, that of the only job there is.

    Raises:
        ConfigError: there is no such job, or there are several to choose from.
    """
    if job is None:
        names = opening.job_names(state_dir)
        if not names:
            raise ConfigError(f"there are no checkpoints in {state_dir}").hint(
                "give the directory that the job ran with as --state-dir"
            )
        if len(names) > 1:
            raise ConfigError(f"there are {len(names)} jobs in {state_dir}").hint(
                f"name one with --job: {', '.join(names)}"
            )
        (job,) = names
    return opening.read_job(state_dir, job)
