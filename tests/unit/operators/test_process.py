from __future__ import annotations

from collections.abc import Iterator
from operator import length_hint
from typing import Any

import pytest

from flowsnap.core.element import Batch
from flowsnap.core.operator import OperatorContext
from flowsnap.errors import ConfigError
from flowsnap.operators.process import KeyedProcess, Process
from tests.unit.operators.twin import TwinContext


class Total(KeyedProcess[int, tuple[str, int]]):
    """Puts out the total of the key, but none for a 0 and two for a 9."""

    def open(self, context: OperatorContext) -> None:
        self.total = context.value_state("total", default=0)
        self.closed = False

    def process(self, value: int, context: OperatorContext) -> Iterator[tuple[str, int]]:
        self.total.update(self.total.value() + 100 // (value + 1))
        for _ in range((value > 0) + (value == 9)):
            yield context.key, self.total.value()

    def close(self) -> None:
        self.closed = True


class Returning(KeyedProcess[Any, Any]):
    def process(self, value: Any, context: OperatorContext) -> Any:
        return value


def opened(operator: Process, context: TwinContext) -> Process:
    operator.open(context)
    return operator


def test_every_record_meets_the_state_of_its_key(context: TwinContext) -> None:
    operator = opened(Process(Total), context)

    outputs = operator.process(Batch([1, 4, 0, 9], None, ["a", "b", "a", "a"]))

    assert outputs == Batch([("a", 50), ("b", 20), ("a", 160), ("a", 160)])


def test_every_output_has_the_event_time_of_its_record(context: TwinContext) -> None:
    operator = opened(Process(Total()), context)

    assert operator.process(Batch([1, 0, 9, 4], [5, 6, 7, 8], list("abcd"))).timestamps == [
        5,
        7,
        7,
        8,
    ]


def test_state_outlives_a_barrier(context: TwinContext) -> None:
    operator = opened(Process(Total), context)
    operator.process(Batch([1], None, ["a"]))

    context.freeze()

    assert operator.process(Batch([4], None, ["a"])) == Batch([("a", 70)])


def test_none_and_lists_are_outputs_too(context: TwinContext) -> None:
    operator = opened(Process(Returning), context)

    assert operator.process(Batch([None, [1, 2], ()], None, list("abc"))) == Batch([1, 2])


@pytest.mark.parametrize("output", ["text", b"bytes", {"a": "dict"}])
def test_single_value_in_place_of_outputs_is_refused(output: Any, context: TwinContext) -> None:
    operator = opened(Process(Returning), context)

    with pytest.raises(TypeError, match=f"returned a {type(output).__name__}, not an iterable"):
        operator.process(Batch([output], None, ["a"]))


def test_cursor_stands_behind_the_record_that_failed(context: TwinContext) -> None:
    operator = opened(Process(Total), context)

    with pytest.raises(ZeroDivisionError):
        operator.process(Batch([1, 2, -1, 3, 4], None, list("abcde")))

    assert length_hint(operator.cursor) == 2


def test_template_is_copied_and_never_run_itself(context: TwinContext) -> None:
    template = Total()

    opened(Process(template), context)

    assert not hasattr(template, "total")


def test_close_reaches_the_copy_that_ran_and_needs_no_open(context: TwinContext) -> None:
    Process(Total).close()
    operator = opened(Process(Total), context)

    operator.close()

    assert isinstance(operator._user, Total)
    assert operator._user.closed


@pytest.mark.parametrize("template", [len, int, "total", Process])
def test_what_is_no_keyed_process_is_refused(template: Any) -> None:
    with pytest.raises(ConfigError, match="is not a KeyedProcess"):
        Process(template)
