"""Where records come from and go to: sources and sinks.

Those that need much, such as a client which is an extra, are imported when they are asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from flowsnap.connectors.callback import Callback, CommittedCallback
from flowsnap.connectors.collect import Collect
from flowsnap.connectors.csv_files import CsvFiles
from flowsnap.connectors.dead_letters import DEAD_LETTER, DeadLetter
from flowsnap.connectors.discard import Discard
from flowsnap.connectors.epoch_log import EpochLogSink, EpochMarker
from flowsnap.connectors.generator import Generator
from flowsnap.connectors.iterable import FromIterable
from flowsnap.connectors.json_lines import JsonLinesFiles
from flowsnap.connectors.partitioned import ByTime
from flowsnap.connectors.sqlite import SQLite
from flowsnap.connectors.text_files import TextFiles

if TYPE_CHECKING:
    from flowsnap.connectors.parquet_files import ParquetFiles
    from flowsnap.connectors.postgres import Postgres
    from flowsnap.connectors.postgres_cdc import Change, PostgresChanges
    from flowsnap.connectors.postgres_table import PostgresTable
    from flowsnap.connectors.python_sources import END, FromGenerator, FromQueue
    from flowsnap.connectors.socket_text import SocketText

__all__ = [
    "TextFiles",
    "JsonLinesFiles",
    "CsvFiles",
    "ParquetFiles",
    "ByTime",
    "DeadLetter",
    "DEAD_LETTER",
    "Generator",
    "FromIterable",
    "FromGenerator",
    "FromQueue",
    "END",
    "SocketText",
    "Callback",
    "CommittedCallback",
    "Collect",
    "Discard",
    "SQLite",
    "Postgres",
    "PostgresTable",
    "PostgresChanges",
    "Change",
    "EpochLogSink",
    "EpochMarker",
]

_EXTRAS = {
    "END": "python_sources",
    "FromGenerator": "python_sources",
    "FromQueue": "python_sources",
    "ParquetFiles": "parquet_files",
    "SocketText": "socket_text",
    "Postgres": "postgres",
    "PostgresTable": "postgres_table",
    "PostgresChanges": "postgres_cdc",
    "Change": "postgres_cdc",
}
"""The modules of connectors that need an extra, or asyncio."""


def __getattr__(name: str) -> Any:
    if name not in _EXTRAS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"flowsnap.connectors.{_EXTRAS[name]}"), name)
