"""Tables of a snapshot in Arrow's memory, for DuckDB, Polars and Parquet; needs an extra."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowsnap.errors import ConfigError, StorageError
from flowsnap.snapshot.plain import to_plain, to_text
from flowsnap.snapshot.tables import columns_of, table

if TYPE_CHECKING:
    import polars

    from flowsnap.snapshot.snapshot import Snapshot

try:
    import pyarrow
    import pyarrow.parquet
except ImportError as error:
    raise ConfigError("tables of a snapshot need pyarrow").hint(
        "install flowsnap with the extra sql: pip install 'flowsnap[sql]'"
    ) from error

_SCALARS = {
    *("bool", "int", "float", "str", "bytes", "NoneType"),
    *("datetime", "date", "time", "timedelta", "Decimal"),
}


def arrow_table(snapshot: Snapshot, name: str) -> pyarrow.Table:
    """Return a table of a snapshot; a column of mixed types, or of objects, is text (JSON).

    Raises:
        ConfigError: there is no such table.
    """
    columns = columns_of(table(snapshot, name))
    return pyarrow.table({column: _array(values) for column, values in columns.items()})


def polars_frame(snapshot: Snapshot, name: str) -> polars.DataFrame:
    """Return a table of a snapshot as a data frame.

    Raises:
        ConfigError: there is no such table, or Polars is missing.
    """
    try:
        import polars  # noqa: PLC0415 - not a part of the extra
    except ImportError as error:
        raise ConfigError("a data frame needs polars").hint("pip install polars") from error
    frame = polars.from_arrow(arrow_table(snapshot, name))
    assert isinstance(frame, polars.DataFrame)  # a Series comes of an array only
    return frame


def write_parquet(content: pyarrow.Table, path: Path) -> None:
    """Write a table to a Parquet file.

    Raises:
        StorageError: it cannot be written.
    """
    try:
        pyarrow.parquet.write_table(content, path)
    except (OSError, pyarrow.ArrowException) as error:
        raise StorageError(f"cannot write {path}: {error}") from error


def _array(values: list[Any]) -> pyarrow.Array:
    types = {type_.__name__ for type_ in set(map(type, values))}
    try:
        if types <= _SCALARS:
            return pyarrow.array(values)
        if types <= {"list", "NoneType"}:
            return pyarrow.array([None if value is None else to_plain(value) for value in values])
    except (pyarrow.ArrowException, ArithmeticError, TypeError, ValueError):
        pass  # The types are mixed, or an int has more than 64 bits.
    return pyarrow.array(
        [None if value is None else to_text(value) for value in values], pyarrow.string()
    )
