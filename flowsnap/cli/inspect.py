"""``flowsnap inspect``: what is in a checkpoint or savepoint."""

from __future__ import annotations

import ast
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Drawn

from flowsnap.api import format as write
from flowsnap.cli.options import log_level_option
from flowsnap.core import manifest as manifests
from flowsnap.errors import ConfigError, FlowsnapError
from flowsnap.snapshot import Snapshot
from flowsnap.snapshot.content import OperatorPart
from flowsnap.snapshot.plain import to_plain, to_text
from flowsnap.snapshot.tables import Table, table, table_of_key

CELL_MAX = 60
COUNTED_BYTES_MAX = 256 << 20
"""The keys of a larger snapshot are not counted for the summary."""

_UNBOUNDED = 10_000
_NOTHING: Any = object()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of a snapshot is asked for: all of it in short, a table, or the answer to a query."""

    operator: str | None = None
    state: str | None = None
    key: str | None = None
    table: str | None = None
    sql: str | None = None

    @classmethod
    def of(cls, *, channels: bool, table: str | None, **others: str | None) -> Wanted:
        """Return what the options ask for.

        Raises:
            ConfigError: they contradict each other.
        """
        if channels and table is not None:
            raise ConfigError("give one of --channels and --table")
        return cls(table="channels" if channels else table, **others)

    def __post_init__(self) -> None:
        if self.state is not None and self.operator is None:
            raise ConfigError("--state needs --operator: a state belongs to an operator")
        if self.key is not None and self.state is None:
            raise ConfigError("--key needs --state")
        if sum(item is not None for item in (self.state, self.table, self.sql)) > 1:
            raise ConfigError("give one of --state, --channels, --table and --sql")

    @property
    def is_summary(self) -> bool:
        """Whether no rows are asked for."""
        return self.state is None and self.table is None and self.sql is None


@dataclass(frozen=True, slots=True)
class Form:
    """How the answer is wanted."""

    is_json: bool
    parquet: Path | None
    limit: int


@click.command("inspect")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--job", help="The job; needed if PATH is a state directory with several.")
@click.option("--operator", metavar="NAME", help="One operator.")
@click.option("--state", metavar="NAME", help="A state of --operator.")
@click.option("--key", help="A key of --state, as in Python (1, ('a', 2)); other text is a str.")
@click.option("--channels", is_flag=True, help="What was in transit.")
@click.option("--table", metavar="NAME", help="positions, timers, commits, watermarks or tasks.")
@click.option("--sql", metavar="QUERY", help="A query; a state is the table OPERATOR.STATE.")
@click.option("--json", "is_json", is_flag=True, help="For programs: all rows, not only some.")
@click.option(
    "--parquet", type=click.Path(dir_okay=False, path_type=Path), help="Write the table here."
)
@click.option("--limit", default=20, show_default=True, help="So many rows are shown.")
@click.option("--trust", is_flag=True, help="Load the job's classes, whose code runs.")
@log_level_option
def inspect_command(path: Path, job: str | None, trust: bool, **options: Any) -> int:
    """Look into a snapshot, whose job may be running.

    PATH is the directory, or the URL in object storage, of a checkpoint, of a savepoint or of a job
    (its newest checkpoint), or a state directory.
    """
    form = Form(options.pop("is_json"), options.pop("parquet"), options.pop("limit"))
    wanted = Wanted.of(**options)
    with Snapshot.open(path, job, trust=trust) as snapshot:
        if form.parquet is not None:
            _write_parquet(snapshot, wanted, form.parquet)
        elif form.is_json:
            click.echo(msgspec.json.encode(_plain(snapshot, wanted)))
        elif wanted.is_summary:
            _tell(snapshot, wanted.operator, Console(highlight=False))
        else:
            _show(_rows(snapshot, wanted), form.limit, Console(highlight=False))
    return 0


# --- rows ------------------------------------------------------------------------------------


def _rows(snapshot: Snapshot, wanted: Wanted) -> Table:
    """Return what is asked for as a table."""
    if wanted.sql is not None:
        answer = snapshot.sql(wanted.sql)
        columns = tuple(answer.column_names)
        return Table("answer", columns, lambda: _values(answer.to_pylist(), columns))
    if wanted.table is not None:
        return table(snapshot, wanted.table)
    assert wanted.operator is not None  # or it would be the summary
    assert wanted.state is not None
    if wanted.key is None:
        return table(snapshot, _state_name(snapshot, wanted))
    keyed = snapshot.state(wanted.operator, wanted.state)
    found = next((key for key in _keys(wanted.key) if key in keyed), _NOTHING)
    if found is _NOTHING:
        raise ConfigError(
            f"state {wanted.state!r} of operator {wanted.operator!r} has no key {wanted.key!r}"
        ).hint("a key is written as in Python, such as 1, 'a' or ('a', 1)")
    return table_of_key(snapshot, keyed.info, found)


def _state_name(snapshot: Snapshot, wanted: Wanted) -> str:
    assert wanted.operator is not None
    names = [info.name for info in _operator(snapshot, wanted.operator).states]
    if wanted.state not in names:
        snapshot.state(wanted.operator, str(wanted.state))  # It says what there is.
    return f"{wanted.operator}.{wanted.state}"


def _operator(snapshot: Snapshot, name: str) -> OperatorPart:
    snapshot.positions(name)  # It says which operators there are.
    return snapshot.operators[name]


def _keys(text: str) -> Iterator[Any]:
    """Yield what the text of a key may mean."""
    try:
        value = ast.literal_eval(text)
        hash(value)
        yield value
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass  # It is no literal, so it stands for itself.
    yield text


def _values(records: Iterable[dict[str, Any]], columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    return (tuple(record[name] for name in columns) for record in records)


def _write_parquet(snapshot: Snapshot, wanted: Wanted, path: Path) -> None:
    from flowsnap.snapshot.arrow import write_parquet  # noqa: PLC0415 - needs an extra

    if wanted.is_summary or wanted.key is not None:
        raise ConfigError("--parquet needs --state, --channels, --table or --sql")
    if wanted.sql is not None:
        content = snapshot.sql(wanted.sql)
    else:
        content = snapshot.to_arrow(_rows(snapshot, wanted).name)
    write_parquet(content, path)
    click.echo(f"{write.plural(content.num_rows, 'row')} written to {path}")


def _plain(snapshot: Snapshot, wanted: Wanted) -> Any:
    if wanted.is_summary:
        return _summary(snapshot, wanted.operator)
    rows = _rows(snapshot, wanted)
    return [
        {name: to_plain(value) for name, value in zip(rows.columns, row, strict=True)}
        for row in rows.rows()
    ]


def _show(rows: Table, limit: int, console: Console) -> None:
    found = rows.rows()
    shown = [[_cell(value) for value in row] for row in islice(found, limit)]
    drawn = _drawn(rows.columns)
    for row in shown:
        drawn.add_row(*row)
    room = console.options.update(width=_UNBOUNDED)
    if not shown or console.measure(drawn, options=room).maximum <= console.width:
        console.print(drawn)
    else:
        _show_upright(rows.columns, shown, console)
    more = next(found, None) is not None
    console.print(f"[dim]{write.plural(len(shown), 'row')}{' and more: see --limit' * more}[/]")


def _show_upright(columns: Sequence[str], rows: list[list[str]], console: Console) -> None:
    """Print rows that are too wide for the terminal one below the other."""
    for row in rows:
        drawn = Drawn.grid(padding=(0, 2, 0, 0))
        for name, cell in zip(columns, row, strict=True):
            drawn.add_row(f"[dim]{escape(name)}[/]", cell)
        console.print(drawn, "")


def _drawn(columns: Iterable[str]) -> Drawn:
    drawn = Drawn(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for name in columns:
        drawn.add_column(escape(name), overflow="fold")
    return drawn


def _cell(value: Any) -> str:
    if value is None:
        return "[dim]-[/]"
    text = write.printable(to_text(value))
    return escape(text if len(text) <= CELL_MAX else f"{text[:CELL_MAX]} ...")


# --- the summary -----------------------------------------------------------------------------


def _summary(snapshot: Snapshot, operator: str | None) -> dict[str, Any]:
    """Return what there is, without the rows of states."""
    names = list(snapshot.operators) if operator is None else [_operator(snapshot, operator).name]
    manifest = snapshot.manifest
    return {
        "job": snapshot.job,
        "checkpoint_id": snapshot.checkpoint_id,
        "kind": snapshot.kind,
        "triggered_at_ms": snapshot.triggered_at_ms,
        "duration_ms": manifest.duration_ms,
        "size_bytes": manifests.size_bytes(manifest),
        "versions": manifest.versions,
        "operators": [_part(snapshot, snapshot.operators[name]) for name in names],
    }


def _part(snapshot: Snapshot, part: OperatorPart) -> dict[str, Any]:
    channels = [c for task in snapshot.manifest.tasks for c in task.channels]
    return {
        "name": part.name,
        "kind": part.kind,
        "type": part.type,
        "parallelism": part.parallelism,
        "watermark_ms": part.watermark_ms,
        "states": [
            {"name": info.name, "kind": info.kind, "versions": info.versions}
            for info in part.states
        ],
        "in_transit": sum(channel.records for channel in channels if channel.target == part.name),
        "positions": [to_plain(at) for at in snapshot.positions(part.name)],
        "pending_commits": [to_plain(commit) for commit in snapshot.commits(part.name)],
    }


def _tell(snapshot: Snapshot, operator: str | None, console: Console) -> None:
    facts = _summary(snapshot, operator)
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(facts["triggered_at_ms"] / 1000))
    console.print(
        f"[bold]{escape(facts['job'])}[/]  {facts['kind']} {facts['checkpoint_id']}  {at}  "
        f"[dim]took {write.duration(facts['duration_ms'])}, {write.size(facts['size_bytes'])}[/]"
    )
    drawn = _drawn(("operator", "kind", "tasks", "states", "in transit", "holds"))
    for part in facts["operators"]:
        drawn.add_row(
            escape(part["name"]),
            escape(part["type"] or part["kind"]),
            str(part["parallelism"]),
            escape(", ".join(_state_text(snapshot, part["name"], info) for info in part["states"])),
            str(part["in_transit"] or ""),
            _holds(part),
        )
    console.print(drawn)


def _state_text(snapshot: Snapshot, operator: str, info: dict[str, Any]) -> str:
    """Return a state with the number of its keys, where it is keyed and can soon be counted."""
    if info["kind"].startswith("operator-"):
        return f"{info['name']} ({info['kind'].removeprefix('operator-')})"
    if manifests.size_bytes(snapshot.manifest) > COUNTED_BYTES_MAX:
        return f"{info['name']} ({info['kind']})"
    try:
        keys = len(snapshot.state(operator, info["name"]))
    except FlowsnapError as error:
        return f"{info['name']} ({write.printable(str(error))})"
    return f"{info['name']} ({info['kind']}, {write.plural(keys, 'key')})"


def _holds(part: dict[str, Any]) -> str:
    """Return what else an operator has, in words."""
    finished = sum(at["is_finished"] for at in part["positions"])
    found = []
    if part["positions"]:
        splits = write.plural(len(part["positions"]), "split")
        found.append(f"{splits}, {finished} finished" if finished else splits)
    if part["pending_commits"]:
        found.append(write.plural(len(part["pending_commits"]), "pending commit"))
    if part["watermark_ms"] is not None:
        found.append(f"event time {part['watermark_ms']} ms")
    return ", ".join(found)
