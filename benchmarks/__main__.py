"""``python -m benchmarks [NAME ...]``: run benchmarks, show them, keep them, compare them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from benchmarks import harness
from benchmarks.harness import Record, Result, Row

README = harness.ROOT / "README.md"
BEGIN, END = "<!-- figures -->", "<!-- /figures -->"
_RUN = "\ndef run(quick: bool) -> "  # what makes a module a benchmark
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("names", metavar="[NAME ...]", nargs=-1)
@click.option("--quick", is_flag=True, help="Small inputs and few rounds: a look, not a figure.")
@click.option("--json", "json_file", type=_FILE, help="Write the figures here.")
@click.option(
    "--update", "kept_file", type=_FILE, help="Put the figures in the place of those in this file."
)
@click.option("--compare", "former_file", type=_FILE, help="Show the change since this file.")
@click.option(
    "--readme", "readme_file", type=_FILE, help="Run nothing; put this file in README.md."
)
def main(
    names: tuple[str, ...],
    quick: bool,
    json_file: Path | None,
    kept_file: Path | None,
    former_file: Path | None,
    readme_file: Path | None,
) -> None:
    """Run the benchmarks of these names, or all of them."""
    console = Console(highlight=False)
    if readme_file is not None:
        README.write_text(with_figures(README.read_text("utf-8"), read(readme_file)), "utf-8")
        return
    if quick and kept_file is not None:
        raise click.UsageError("--update keeps figures, and --quick gives none")
    kept = read(kept_file) if kept_file is not None else None
    if kept is not None and kept.is_quick:
        raise click.UsageError(
            f"{kept_file} was written with --quick: what is in it are no figures"
        )
    former = read(former_file) if former_file is not None else None
    record = run(choose(names), console, is_quick=quick)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_bytes(_encoded(_named(record)))
    if kept_file is not None and kept is not None:
        kept_file.write_bytes(_encoded(updated(kept, record)))
    if former is not None:
        console.print(comparison(record, former))


def updated(kept: Record, record: Record) -> Record:
    """Return what was kept, with the benchmarks of ``record`` in the place of the former ones.

    Those that stay keep what they were measured on.
    """
    new = {result.name: result for result in record.benchmarks}
    old = [
        msgspec.structs.replace(
            result,
            commit=result.commit or kept.commit,
            machine=result.machine or kept.machine,
            versions=result.versions or kept.versions,
        )
        for result in kept.benchmarks
    ]
    merged = [new.pop(result.name, result) for result in old]
    return msgspec.structs.replace(record, benchmarks=(*merged, *new.values()))


def _named(record: Record) -> Record:
    """Return a record with the name and the rows of its benchmark, if it is of a single one."""
    if len(record.benchmarks) != 1:
        return record
    (only,) = record.benchmarks
    return msgspec.structs.replace(record, name=only.name, rows=only.rows)


def _encoded(record: Record) -> bytes:
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


def choose(names: tuple[str, ...]) -> dict[str, ModuleType]:
    """Return the benchmark modules of these names, or all of them."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    found = [file.stem for file in files if _RUN in file.read_text("utf-8")]
    for name in names:
        if name not in found:
            raise click.UsageError(f"there is no benchmark {name!r}: {', '.join(found)}")
    return {name: importlib.import_module(f"benchmarks.{name}") for name in names or found}


def run(modules: dict[str, ModuleType], console: Console, *, is_quick: bool) -> Record:
    """Run benchmarks one after the other, and print the table of each as soon as it is there."""
    results = []
    for name, module in modules.items():
        question = (module.__doc__ or "").strip().partition("\n")[0]
        with console.status(name) as status:
            harness.listen(partial(_announce, console, status, name))
            rows = tuple(module.run(is_quick))
        commit = harness.commit()
        results.append(Result(name=name, question=question, rows=rows, commit=commit))
        console.print(table(results[-1]), "")
    return Record(
        benchmarks=tuple(results),
        machine=harness.machine(),
        versions=harness.versions(),
        commit=harness.commit(),
        is_quick=is_quick,
    )


def _announce(console: Console, status: Status, name: str, step: str) -> None:
    """Show what is being measured: in place in a terminal, as lines elsewhere."""
    if console.is_terminal:
        status.update(escape(f"{name}: {step}"))
    else:
        click.echo(f"{name}: {step}", err=True)


def table(result: Result) -> Table:
    """Return the rows of a benchmark for people."""
    made = Table(title=f"{result.name}: {escape(result.question)}", title_justify="left", box=None)
    made.add_column("case")
    for column in ("value", "ratio", "spread"):
        made.add_column(column, justify="right", no_wrap=True)
    made.add_column("note", style="dim")
    for row in result.rows:
        made.add_row(
            escape(row.case), _value(row), _ratio(row.ratio), _spread(row), escape(row.note)
        )
    return made


def comparison(record: Record, former: Record) -> Table:
    """Return what has changed since a former record, case by case; green is better."""
    old = dict(_cases(former))
    made = Table(title=f"{former.commit} to {record.commit}", title_justify="left", box=None)
    for column in ("case", "before", "now", "change"):
        made.add_column(column, justify="left" if column == "case" else "right", no_wrap=True)
    for key, row in _cases(record):
        before = old.get(key)
        if before is None or not before.value:
            made.add_row(escape(key), "", _value(row), "new")
            continue
        change = row.value / before.value - 1
        is_better = (change < 0) is row.is_lower_better
        style = "dim" if abs(change) < 0.05 else "green" if is_better else "red"
        made.add_row(escape(key), _value(before), _value(row), f"[{style}]{change:+.1%}[/]")
    return made


def with_figures(readme: str, record: Record) -> str:
    """Return the README with the figures of ``record`` between the two marks."""
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise click.ClickException(f"{README.name} has no block {BEGIN} ... {END}")
    return f"{head}{BEGIN}\n{markdown(record)}\n{END}{tail}"


def markdown(record: Record) -> str:
    """Return all rows as one Markdown table, and below it what they were measured on."""
    lines = ["| benchmark | case | value | ratio | note |", "|---|---|--:|--:|---|"]
    for result in record.benchmarks:
        for number, row in enumerate(result.rows):
            cells = (row.case, _value(row), _ratio(row.ratio), row.note)
            name = result.name if number == 0 else ""
            lines.append(f"| {' | '.join([name, *(cell.replace('|', '/') for cell in cells)])} |")
    machines = _told(record, lambda result: _shown(result.machine or record.machine))
    commits = _told(record, lambda result: f"commit {result.commit or record.commit}")
    where = f"{machines}, {commits}"
    lines += ["", f"Medians, measured on {where}, by `make bench`."]
    return "\n".join(lines)


def _shown(machine: dict[str, str | int]) -> str:
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['python']}"


def _told(record: Record, of: Callable[[Result], str]) -> str:
    """Return what holds of all benchmarks; where several things do, of which benchmarks each."""
    found: dict[str, list[str]] = {}
    for result in record.benchmarks:
        found.setdefault(of(result), []).append(result.name)
    if len(found) < 2:
        return next(iter(found), "nothing")
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in found.items())


def read(file: Path) -> Record:
    """Return the record in a file."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError) as error:
        raise click.ClickException(f"{file}: {error}") from error


def _cases(record: Record) -> Iterator[tuple[str, Row]]:
    for result in record.benchmarks:
        for row in result.rows:
            yield f"{result.name}: {row.case}", row


def _value(row: Row) -> str:
    digits = 0 if row.value >= 100 else 1 if row.value >= 10 else 2
    return f"{row.value:,.{digits}f} {row.unit}"


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x"


def _spread(row: Row) -> str:
    return "" if row.spread is None else f"{row.spread:.0%}"


if __name__ == "__main__":
    main()
