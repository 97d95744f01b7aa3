from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowsnap.errors import ConfigError, OperatorError
from flowsnap.operators.co_process import CoProcess, ProcessBoth
from flowsnap.operators.process_context import ProcessContext
from tests.unit.operators.rig import Rig


class Matched(CoProcess[int, str, tuple[str, str, int]]):
    """Puts out each left record with the newest right one of its key, as soon as there is one."""

    def open(self, context: ProcessContext) -> None:
        self.newest = context.value_state("newest")
        self.waiting = context.list_state("waiting")

    def process_left(self, value: int, context: ProcessContext) -> Iterator[tuple[str, str, int]]:
        if self.newest.value() is None:
            self.waiting.add(value)
            context.register_event_timer(100)
        else:
            yield context.key, self.newest.value(), value

    def process_right(self, value: str, context: ProcessContext) -> Iterator[tuple[str, str, int]]:
        self.newest.update(value)
        yield from ((context.key, value, one) for one in self.waiting.get())
        self.waiting.clear()

    def on_timer(self, timestamp: int, context: ProcessContext) -> Iterator[tuple[str, str, int]]:
        yield from ((context.key, "none", one) for one in self.waiting.get())
        self.waiting.clear()


class Sides(CoProcess[int, int, tuple[str, int]]):
    def process_left(self, value: int, context: ProcessContext) -> list[tuple[str, int]]:
        return [("left", value)]

    def process_right(self, value: int, context: ProcessContext) -> list[tuple[str, int]]:
        return [("right", 1 // value)]


def test_both_inputs_share_the_state_of_the_key() -> None:
    rig = Rig(ProcessBoth(Matched)).push([1, 2], [5, 6], ["a", "b"])

    rig.push(["x"], [7], ["a"], port=1).push([3], [8], ["a"])

    assert rig.timed == [(("a", "x", 1), 7), (("a", "x", 3), 8)]


def test_timers_are_those_of_the_key_whichever_input_set_them() -> None:
    rig = Rig(ProcessBoth(Matched)).push([1, 2], [5, 6], ["a", "b"])

    rig.push(["x"], [7], ["a"], port=1).watermark(100)

    assert rig.timed[1:] == [(("b", "none", 2), 100)]


def test_inputs_without_keys_have_no_state_but_are_told_apart() -> None:
    rig = Rig(ProcessBoth(Sides(), is_keyed=False)).push([1]).push([1], port=1).push([2])

    assert rig.values == [("left", 1), ("right", 1), ("left", 2)]


def test_failing_record_of_the_second_input_is_named() -> None:
    with pytest.raises(OperatorError, match=r"ZeroDivisionError.* on record 2 of a batch of 3"):
        Rig(ProcessBoth(Sides, is_keyed=False)).push([1, 0, 1], port=1)


@pytest.mark.parametrize("template", [len, int, "both", ProcessBoth])
def test_what_is_no_co_process_is_refused(template: Any) -> None:
    with pytest.raises(ConfigError, match="is not a CoProcess"):
        ProcessBoth(template)


RECORDS = st.lists(
    st.tuples(st.sampled_from([0, 1]), st.sampled_from("ab"), st.integers(0, 9)), max_size=20
)


@settings(max_examples=100, deadline=None)
@given(RECORDS, st.integers(0, 20))
def test_result_is_that_of_brute_force_wherever_it_was_restored(
    records: list[tuple[int, str, int]], cut: int
) -> None:
    rig = Rig(ProcessBoth(Matched))
    newest: dict[str, str] = {}
    waiting: dict[str, list[int]] = {"a": [], "b": []}
    expected: list[tuple[str, str, int]] = []
    for number, (port, key, value) in enumerate(records):
        rig = rig.restored() if number == cut else rig
        rig.push([str(value) if port else value], [0], [key], port=port)
        if port:
            newest[key] = str(value)
            expected += [(key, str(value), one) for one in waiting[key]]
            waiting[key] = []
        elif key in newest:
            expected.append((key, newest[key], value))
        else:
            waiting[key].append(value)
    assert rig.values == expected
    assert rig.end().values == expected + [(k, "none", one) for k in "ab" for one in waiting[k]]
