from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from flowsnap.errors import ConfigError, OperatorError
from flowsnap.operators.process import KeyedProcess, ProcessEach, ProcessFunction
from flowsnap.operators.process_context import ProcessContext
from flowsnap.operators.side_output import OutputTag
from tests.unit.operators.rig import Rig

ODD: OutputTag[int] = OutputTag("odd")


class Halves(ProcessFunction[int, int]):
    """Puts out the halves of even numbers; odd ones leave beside. Counts over restarts."""

    def open(self, context: ProcessContext) -> None:
        self.state = context.operator_state("seen")
        self.seen = sum(self.state.get())

    def process(self, value: int, context: ProcessContext) -> Iterator[int]:
        self.seen += 1
        self.state.update([self.seen])
        if value % 2:
            context.output(ODD, value)
        else:
            yield value // 2

    def close(self) -> None:
        self.is_closed = True


def test_class_and_instance_are_both_templates() -> None:
    for template in (Halves, Halves()):
        assert Rig(ProcessEach(template)).push([2, 4]).values == [1, 2]


def test_function_of_a_record_and_the_context_will_do() -> None:
    def doubled(value: int, context: ProcessContext) -> list[tuple[int, int | None]]:
        return [(value, context.timestamp)] * 2

    rig = Rig(ProcessEach(doubled)).push([7], [70])

    assert rig.timed == [((7, 70), 70), ((7, 70), 70)]


def test_side_output_has_the_values_and_times_of_its_records() -> None:
    rig = Rig(ProcessEach(Halves)).push([1, 2, 3], [10, 20, 30])

    (batch,) = next(iter(rig.contexts.values())).side_output("odd").take()

    assert rig.timed == [(1, 20)]
    assert (batch.values, batch.timestamps) == ([1, 3], [10, 30])


def test_tag_may_be_written_as_a_string() -> None:
    def aside(value: int, context: ProcessContext) -> None:
        context.output("aside", value)

    assert Rig(ProcessEach(aside)).push([1, 2]).side("aside") == [1, 2]


def test_malformed_tag_is_refused() -> None:
    def aside(value: int, context: ProcessContext) -> None:
        context.output("a side", value)

    with pytest.raises(ConfigError, match="'a side' is not a name for a side output"):
        Rig(ProcessEach(aside)).push([1])


def test_operator_state_outlives_a_restore() -> None:
    rig = Rig(ProcessEach(Halves)).push([1, 2]).restored().push([3])

    (state,) = rig.snapshot().operator_states
    assert state.name == "seen"
    assert rig.restored().push([5]).operators[0]._user.seen == 4  # type: ignore[attr-defined]


@pytest.mark.parametrize("call", ["register_event_timer", "register_processing_timer"])
def test_timers_need_a_key(call: str) -> None:
    rig = Rig(ProcessEach(lambda value, context: getattr(context, call)(value)))

    with pytest.raises(ConfigError, match="uses timers, but has no on_timer"):
        rig.push([1])


def test_failing_record_is_named() -> None:
    with pytest.raises(OperatorError, match=r"TypeError.* on record 2 of a batch of 2"):
        Rig(ProcessEach(Halves)).push([2, "a"])


class Keyed(KeyedProcess[int, int]):
    pass


@pytest.mark.parametrize("template", [Keyed, Keyed()])
def test_keyed_step_without_a_key_is_refused(template: Any) -> None:
    with pytest.raises(ConfigError, match="needs a key"):
        ProcessEach(template)


@pytest.mark.parametrize("template", [int, "text", None, Rig])
def test_what_is_neither_class_nor_function_is_refused(template: Any) -> None:
    with pytest.raises(ConfigError, match="is not a ProcessFunction"):
        ProcessEach(template)


def test_event_time_cannot_be_set_through_the_context() -> None:
    def back(value: int, context: ProcessContext) -> None:
        context.watermark_ms = value

    with pytest.raises(OperatorError, match="event time comes with the records; 3 cannot be set"):
        Rig(ProcessEach(back)).push([3])
