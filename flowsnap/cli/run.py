"""``flowsnap run``: run a pipeline, show its progress, and say by the exit code how it went."""

from __future__ import annotations

import click

from flowsnap.api.display import follow
from flowsnap.api.settings import job_config
from flowsnap.cli.options import (
    STATE_DIR,
    argument_option,
    as_place,
    log_level_option,
    target_argument,
    work_dir_option,
)
from flowsnap.cli.pairs import parse_pairs, parse_settings
from flowsnap.cli.report import DONE, INTERRUPTED
from flowsnap.cli.target import load
from flowsnap.core.restore import Allowed
from flowsnap.errors import ConfigError
from flowsnap.storage.object_url import StateDir, as_state_dir


@click.command("run")
@target_argument
@argument_option
@click.option(
    "--workers",
    "-w",
    type=click.IntRange(0),
    help="Worker processes; 0, the default, runs everything in this one.",
)
@click.option(
    "--state-dir",
    metavar=STATE_DIR,
    callback=as_place,
    help="Where checkpoints are kept, a directory or a URL; without it they end with the run.",
)
@work_dir_option
@click.option("--checkpoint-interval", metavar="DURATION", help='Such as "10s", the default.')
@click.option("--fresh", is_flag=True, help="Begin anew, whatever checkpoints there are.")
@click.option(
    "--restore",
    metavar="ID|PATH|URL",
    help="Go on from this checkpoint, or from the savepoint in this directory or at this URL.",
)
@click.option("--allow-removed", is_flag=True, help="Drop the state of operators that are gone.")
@click.option("--allow-added", is_flag=True, help="Let new operators that keep state begin empty.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any other setting, such as state_memory=64MB or restart=none; may be repeated.",
)
@click.option("--quiet", "-q", is_flag=True, help="Show nothing but the error, if there is one.")
@log_level_option
def run_command(
    target: str,
    arguments: tuple[str, ...],
    settings: tuple[str, ...],
    state_dir: StateDir | None,
    quiet: bool,
    **options: object,
) -> int:
    """Run the pipeline TARGET to its end.

    On a state directory that holds checkpoints the job goes on from the newest one. Ctrl-C stops
    the job with a last checkpoint; a second Ctrl-C cancels it.
    """
    own = {
        key: options[key] for key in ("workers", "checkpoint_interval") if options[key] is not None
    }
    config = job_config(parse_settings(parse_pairs(settings, "--set")) | own)
    restore = _restore(options)
    allowed = Allowed(bool(options["allow_removed"]), bool(options["allow_added"]))
    pipeline = load(target, parse_pairs(arguments, "--arg"))
    definition = pipeline.definition(max(config.workers, 1))
    from flowsnap.runtime.job import start_job  # noqa: PLC0415 - keeps other commands light

    handle = start_job(
        definition, config, state_dir=state_dir, restore=restore, allowed=allowed, in_thread=False
    )
    result = follow(handle, quiet=quiet, state_dir=str(state_dir) if state_dir else None)
    return DONE if result.state == "finished" else INTERRUPTED


def _restore(options: dict[str, object]) -> str | int | StateDir:
    wanted = options["restore"]
    if not isinstance(wanted, str):
        return "fresh" if options["fresh"] else "latest"
    if options["fresh"]:
        raise ConfigError("--fresh begins anew, --restore goes on: give one of them")
    if wanted.isdecimal():
        return int(wanted)
    if not wanted:
        raise ConfigError("--restore: it names no checkpoint").hint(
            'give a number of "flowsnap checkpoints", or the place of a savepoint'
        )
    return as_state_dir(wanted)
