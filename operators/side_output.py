"""Side outputs: a second output of a step, by tag; ``split`` makes two streams of one."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from operator import not_
from typing import Any, Generic, TypeVar

from flowsnap.core.element import Batch
from flowsnap.core.operator import Operator, OperatorContext, select
from flowsnap.errors import ConfigError

T = TypeVar("T")

REST = "rest"
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class OutputTag(Generic[T]):
    """The name of a side output, whose records are of type ``T``.

    A step emits to it with ``context.output(tag, value)``; ``stream.side_output(tag)`` reads it.
    What nobody reads is dropped.

    Raises:
        ConfigError: the name is malformed.
    """

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _TAG.fullmatch(self.name):
            raise ConfigError(f"{self.name!r} is not a name for a side output").hint(
                "1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit"
            )


def tag_name(tag: object) -> str:
    """Return the name of a tag, or of one written as a string.

    Raises:
        ConfigError: it is neither, or malformed.
    """
    if isinstance(tag, OutputTag):
        return tag.name
    return OutputTag[Any](tag).name  # type: ignore[arg-type]  # which is checked there


class SplitBy(Operator):
    """Lets the records pass for which ``fn(record)`` is true; others leave beside, as "rest"."""

    def __init__(self, fn: Callable[[Any], Any]) -> None:
        self.fn = fn

    def open(self, context: OperatorContext) -> None:
        self._rest = context.side_output(REST)

    def process(self, batch: Batch) -> Batch:
        self.cursor = iter(batch.values)
        mask = list(map(self.fn, self.cursor))
        rest = select(batch, list(map(not_, mask)))
        self._rest.add_all(rest.values, rest.timestamps)
        return select(batch, mask)
