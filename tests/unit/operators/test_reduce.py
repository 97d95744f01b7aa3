from __future__ import annotations

from operator import length_hint

import pytest

from flowsnap.core.element import Batch
from flowsnap.errors import ConfigError
from flowsnap.operators.reduce import Reduce
from tests.unit.operators.twin import TwinContext


def longer(old: str, new: str) -> str:
    return new if len(new) > len(old) else old


def keyed(*words: str) -> Batch:
    return Batch(list(words), None, [word[0] for word in words])


def test_each_record_puts_out_the_reduced_record_of_its_key(context: TwinContext) -> None:
    operator = Reduce(longer)
    operator.open(context)

    outputs = operator.process(keyed("ab", "b", "a", "abc", "bb"))

    assert outputs.values == ["ab", "b", "ab", "abc", "bb"]


def test_each_output_has_the_event_time_of_its_record(context: TwinContext) -> None:
    operator = Reduce(longer)
    operator.open(context)

    assert operator.process(Batch(["b", "a"], [20, 10], ["k", "k"])).timestamps == [20, 10]


def test_a_batch_puts_out_one_record_for_each_key_it_touched(context: TwinContext) -> None:
    operator = Reduce(longer, "batch")
    operator.open(context)
    operator.process(keyed("cc"))

    assert operator.process(keyed("a", "b", "ab", "b")) == Batch(["ab", "b"])


def test_reduced_records_outlive_a_barrier(context: TwinContext) -> None:
    operator = Reduce(longer)
    operator.open(context)
    operator.process(keyed("abc", "b"))

    context.freeze()

    assert operator.process(keyed("a", "bb")).values == ["abc", "bb"]


def test_final_records_come_at_the_end_of_input_only(context: TwinContext) -> None:
    operator = Reduce(longer, "final")
    operator.open(context)

    assert operator.process(keyed("a", "b", "ab")) == Batch([])
    context.freeze()
    assert operator.process(keyed("abc")) == Batch([])
    assert [sorted(page.values) for page in operator.end_input()] == [["abc", "b"]]


@pytest.mark.parametrize("emit", ["each", "batch"])
def test_nothing_comes_at_the_end_of_input_unless_it_is_final(
    context: TwinContext, emit: str
) -> None:
    operator = Reduce(longer, emit)  # type: ignore[arg-type]  # a str from the parametrisation
    operator.open(context)
    operator.process(keyed("a"))

    assert list(operator.end_input()) == []


def test_failure_leaves_the_key_as_it_was_and_the_cursor_behind_the_record(
    context: TwinContext,
) -> None:
    operator = Reduce(lambda old, new: old // new)
    operator.open(context)

    with pytest.raises(ZeroDivisionError):
        operator.process(Batch([8, 2, 0, 4, 4], None, ["k"] * 5))

    assert context.table("reduce").get("k") == 4
    assert length_hint(operator.cursor) == 2


def test_unknown_emit_is_refused() -> None:
    with pytest.raises(ConfigError, match="'sometimes'"):
        Reduce(longer, "sometimes")  # type: ignore[arg-type]  # what a user may pass
