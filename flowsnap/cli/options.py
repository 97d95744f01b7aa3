"""Arguments and options that several commands share."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from flowsnap.errors import ConfigError
from flowsnap.storage.job_directory import JobDirectory, job_names

_LEVELS = ("debug", "info", "warning", "error")


def _set_level(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        logging.getLogger("flowsnap").setLevel(value.upper())


def is_debug() -> bool:
    """Return whether ``--log-level debug`` was given."""
    return logging.getLogger("flowsnap").level == logging.DEBUG


target_argument = click.argument("target", metavar="TARGET")
argument_option = click.option(
    "--arg",
    "-a",
    "arguments",
    multiple=True,
    metavar="KEY=VALUE",
    help="A parameter of the function that makes the pipeline; may be repeated.",
)
state_dir_option = click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Where checkpoints are kept.",
)
job_option = click.option("--job", help="The job; needed if the directory holds several.")
timeout_option = click.option(
    "--timeout",
    default="10m",
    show_default=True,
    metavar="DURATION",
    help="How long to wait for the job.",
)
json_option = click.option("--json", "is_json", is_flag=True, help="For programs.")
log_level_option = click.option(
    "--log-level",
    type=click.Choice(_LEVELS, case_sensitive=False),
    callback=_set_level,
    expose_value=False,
    help="What is logged; debug also shows the traceback of an error.",
)


def read_job(state_dir: Path, job: str | None) -> JobDirectory:
    """Open the directory of a job for reading; without a name, that of the only job there is.

    Raises:
        ConfigError: there is no such job, or there are several to choose from.
    """
    if job is None:
        names = job_names(state_dir) if state_dir.is_dir() else []
        if not names:
            raise ConfigError(f"there are no checkpoints in {state_dir}").hint(
                "give the directory that the job ran with as --state-dir"
            )
        if len(names) > 1:
            raise ConfigError(f"there are {len(names)} jobs in {state_dir}").hint(
                f"name one with --job: {', '.join(names)}"
            )
        (job,) = names
    return JobDirectory.read(state_dir, job)
