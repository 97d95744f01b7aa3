"""The command ``flowsnap``: its commands, and what its exit codes mean."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click
from rich.console import Console

import flowsnap
from flowsnap.cli.options import is_debug
from flowsnap.cli.report import FAILED, INTERRUPTED, exit_code, report
from flowsnap.errors import FlowsnapError

COMMANDS = {
    "run": "flowsnap.cli.run:run_command",
    "savepoint": "flowsnap.cli.savepoint:savepoint_command",
    "stop": "flowsnap.cli.stop:stop_command",
    "cancel": "flowsnap.cli.stop:cancel_command",
    "checkpoints": "flowsnap.cli.checkpoints:checkpoints_command",
    "verify": "flowsnap.cli.verify:verify_command",
    "inspect": "flowsnap.cli.inspect:inspect_command",
    "diff": "flowsnap.cli.diff:diff_command",
    "graph": "flowsnap.cli.graph:graph_command",
}
"""Where each command is; only the one that is called is imported."""


class Commands(click.Group):
    """The commands of ``COMMANDS``, in their order."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(flowsnap.__version__, prog_name="flowsnap")
def commands() -> None:
    """Stream processing with exactly-once snapshots.

    TARGET is module[:name] or file.py[:name]: a Pipeline, or a function that returns one. The
    name is "pipeline" unless given.

    Exit codes: 0 done, 1 the job failed, 2 wrong use or configuration, 3 cannot restore or
    damaged, 130 interrupted.
    """


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
