"""``flowsnap diff``: what has changed from one snapshot to another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.text import Text

from flowsnap.api.format import plural, printable
from flowsnap.cli.options import log_level_option
from flowsnap.snapshot import Change, Snapshot, SnapshotDifference, StateDifference, diff
from flowsnap.snapshot.plain import to_plain, to_text

TEXT_MAX = 60
_SIGNS = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow")}


@click.command("diff")
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option("--json", "is_json", is_flag=True, help="For programs.")
@click.option("--examples", default=5, show_default=True, help="So many changes of each state.")
@click.option("--trust", is_flag=True, help="Load the job's classes, whose code runs.")
@log_level_option
def diff_command(before: Path, after: Path, is_json: bool, examples: int, trust: bool) -> int:
    """Compare two snapshots, key by key.

    BEFORE and AFTER are directories, or URLs in object storage, of checkpoints, savepoints or jobs.
    """
    with Snapshot.open(before, trust=trust) as one, Snapshot.open(after, trust=trust) as other:
        found = diff(one, other, examples=examples)
        names = f"{one.kind} {one.checkpoint_id}", f"{other.kind} {other.checkpoint_id}"
    if is_json:
        click.echo(msgspec.json.encode(to_plain(found)))
    else:
        _tell(found, names, Console(highlight=False))
    return 0


def _tell(found: SnapshotDifference, names: tuple[str, str], console: Console) -> None:
    if found.is_same:
        console.print(f"[green]nothing has changed from {names[0]} to {names[1]}[/]")
        return
    console.print(f"[bold]{names[0]} to {names[1]}[/]")
    for sign, operators in (("+", found.operators_added), ("-", found.operators_removed)):
        for name in operators:
            console.print(f"{sign} operator {name}", markup=False)
    for state in found.states:
        _tell_state(state, console)
    for name in found.operator_states:
        console.print(f"~ operator state {name}", markup=False)
    pairs = {"position": found.positions, "event time": found.watermarks}
    for what, moved in pairs.items():
        for name, (old, new) in moved.items():
            console.print(_line("changed", f"{what} of {name}: {_short(old)} → {_short(new)}"))
    if not found.is_transit_same:
        console.print(f"in transit: {found.transit[0]} → {plural(found.transit[1], 'record')}")


def _tell_state(state: StateDifference, console: Console) -> None:
    if state.is_same:
        return
    counts = ", ".join(
        f"{getattr(state, kind):,} {kind}" for kind in _SIGNS if getattr(state, kind)
    )
    console.print(Text(f"{state.operator}.{state.name}: {counts}, {state.same:,} the same"))
    for change in state.examples:
        console.print(_line(change.kind, _change_text(change), indent=2), soft_wrap=True)
    left = state.added + state.removed + state.changed - len(state.examples)
    if left and state.examples:
        console.print(f"  [dim]and {left:,} more[/]")


def _line(kind: str, text: str, indent: int = 0) -> Text:
    sign, style = _SIGNS[kind]
    return Text.assemble(" " * indent, (sign, style), " ", printable(text))


def _change_text(change: Change) -> str:
    place = _short(change.key)
    if change.namespace is not None:
        place += f" [{_short(change.namespace)}]"
    if change.kind == "added":
        return f"{place}: {_short(change.after)}"
    if change.kind == "removed":
        return f"{place}: {_short(change.before)}"
    return f"{place}: {_short(change.before)} → {_short(change.after)}"


def _short(value: Any) -> str:
    text = to_text(value)
    return text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]} ..."
