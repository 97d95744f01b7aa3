"""The command ``flowsnap``: its commands, and what its exit codes mean."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click
from rich.console import Console

import flowsnap
from flowsnap.cli.checkpoints import checkpoints_command
from flowsnap.cli.diff import diff_command
from flowsnap.cli.graph import graph_command
from flowsnap.cli.inspect import inspect_command
from flowsnap.cli.options import is_debug
from flowsnap.cli.report import FAILED, INTERRUPTED, exit_code, report
from flowsnap.cli.run import run_command
from flowsnap.cli.savepoint import savepoint_command
from flowsnap.cli.stop import cancel_command, stop_command
from flowsnap.cli.verify import verify_command
from flowsnap.errors import FlowsnapError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(flowsnap.__version__, prog_name="flowsnap")
def commands() -> None:
    """Stream processing with exactly-once snapshots.

    TARGET is module[:name] or file.py[:name]: a Pipeline, or a function that returns one. The
    name is "pipeline" unless given.

    Exit codes: 0 done, 1 the job failed, 2 wrong use or configuration, 3 cannot restore or
    damaged, 130 interrupted.
    """


commands.add_command(run_command)
commands.add_command(savepoint_command)
commands.add_command(stop_command)
commands.add_command(cancel_command)
commands.add_command(checkpoints_command)
commands.add_command(verify_command)
commands.add_command(inspect_command)
commands.add_command(diff_command)
commands.add_command(graph_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(invoke(sys.argv[1:] if arguments is None else arguments))


def invoke(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code; errors are told on stderr."""
    try:
        code: int | None = commands.main(list(arguments), "flowsnap", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        return _end_of_pipe()
    except FlowsnapError as error:
        console = Console(stderr=True, highlight=False)
        if is_debug():
            console.print_exception()
        report(error, console)
        return exit_code(error)
    return code or 0


def _end_of_pipe() -> int:
    """Keep Python from complaining when whoever read our output has left."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED


if __name__ == "__main__":
    main()
