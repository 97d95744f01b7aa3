from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowsnap.errors import ConfigError, OperatorError
from flowsnap.operators.broadcast import BroadcastContext, BroadcastProcess, ProcessWithBroadcast
from flowsnap.operators.process_context import ProcessContext
from tests.unit.operators.rig import Rig


class Priced(BroadcastProcess[str, tuple[str, int], Any]):
    """Puts out each article with its price, and how many there were of it so far."""

    def open(self, context: ProcessContext) -> None:
        self.count = context.value_state("count", default=0)

    def process(self, value: str, context: BroadcastContext) -> Iterator[Any]:
        self.count.update(self.count.value() + 1)
        context.register_event_timer(100)
        yield value, context.broadcast.get(value), self.count.value()

    def process_broadcast(self, value: tuple[str, int], context: BroadcastContext) -> list[str]:
        context.broadcast[value[0]] = value[1]
        return [f"price of {value[0]}"]

    def on_timer(self, timestamp: int, context: BroadcastContext) -> Iterator[Any]:
        yield context.key, sorted(context.broadcast.items()), self.count.value()


class Forbidden(BroadcastProcess[str, str, Any]):
    """Does what may not be done."""

    def open(self, context: ProcessContext) -> None:
        self.count = context.value_state("count", default=0)

    def process(self, value: str, context: BroadcastContext) -> None:
        context.broadcast[value] = 1

    def process_broadcast(self, value: str, context: BroadcastContext) -> None:
        if value == "timer":
            context.register_event_timer(1)
        else:
            self.count.update(1)

    def on_timer(self, timestamp: int, context: BroadcastContext) -> None:
        pass


def price(rig: Rig, *prices: tuple[str, int]) -> Rig:
    return rig.push(prices, port=1)


def test_records_meet_the_rules_that_came_before_them() -> None:
    rig = Rig(ProcessWithBroadcast(Priced)).push(["pen"], [1], ["pen"])

    price(rig, ("pen", 3), ("ink", 8)).push(["pen", "ink"], [2, 3], ["pen", "ink"])

    assert rig.values[0] == ("pen", None, 1)
    assert rig.values[1:3] == ["price of pen", "price of ink"]
    assert rig.values[3:] == [("pen", 3, 2), ("ink", 8, 1)]


def test_rules_keyed_state_and_timers_outlive_a_restore() -> None:
    rig = price(Rig(ProcessWithBroadcast(Priced)), ("pen", 3)).push(["pen"], [1], ["pen"])

    rig = rig.restored().push(["pen"], [2], ["pen"]).restored().watermark(100)

    assert rig.values[-2:] == [("pen", 3, 2), ("pen", [("pen", 3)], 2)]


def test_snapshot_has_the_rules_as_broadcast_state() -> None:
    rig = price(Rig(ProcessWithBroadcast(Priced)), ("pen", 3), ("pen", 4))

    (state,) = rig.snapshot().operator_states

    assert (state.name, state.kind, len(state.values)) == ("broadcast", "broadcast", 1)


def test_without_keys_there_are_rules_but_no_timers() -> None:
    class Known(BroadcastProcess[int, int, int]):
        def process(self, value: int, context: BroadcastContext) -> list[int]:
            return [value] if value in context.broadcast else []

        def process_broadcast(self, value: int, context: BroadcastContext) -> None:
            context.broadcast[value] = True

    rig = Rig(ProcessWithBroadcast(Known, is_keyed=False)).push([2], port=1).push([1, 2, 3])

    assert rig.values == [2]


def test_rules_can_only_be_read_where_not_every_subtask_is_told() -> None:
    with pytest.raises(OperatorError, match=r"does not support item assignment.* on record 1"):
        Rig(ProcessWithBroadcast(Forbidden)).push(["a"], [0], ["a"])


@pytest.mark.parametrize("what", ["timer", "state"])
def test_there_is_no_key_where_every_subtask_is_told(what: str) -> None:
    rig = Rig(ProcessWithBroadcast(Forbidden))

    with pytest.raises(OperatorError, match="there is no key in process_broadcast"):
        rig.push([what], port=1)


def test_rules_are_to_be_read_again_after_an_error() -> None:
    rig = Rig(ProcessWithBroadcast(Forbidden))
    with pytest.raises(OperatorError):
        rig.push(["state"], port=1)

    with pytest.raises(OperatorError, match="does not support item assignment"):
        rig.push(["a"], [0], ["a"])


@pytest.mark.parametrize("template", [len, int, "rules", ProcessWithBroadcast])
def test_what_is_no_broadcast_process_is_refused(template: Any) -> None:
    with pytest.raises(ConfigError, match="is not a BroadcastProcess"):
        ProcessWithBroadcast(template)


RECORDS = st.lists(
    st.tuples(st.booleans(), st.sampled_from(["pen", "ink"]), st.integers(0, 9)), max_size=20
)


@settings(max_examples=100, deadline=None)
@given(RECORDS, st.integers(0, 20))
def test_result_is_that_of_brute_force_wherever_it_was_restored(
    records: list[tuple[bool, str, int]], cut: int
) -> None:
    rig, prices, counts = Rig(ProcessWithBroadcast(Priced)), dict[str, int](), dict[str, int]()
    expected: list[Any] = []
    for number, (is_price, article, value) in enumerate(records):
        rig = rig.restored() if number == cut else rig
        if is_price:
            price(rig, (article, value))
            prices[article] = value
            expected.append(f"price of {article}")
        else:
            rig.push([article], [0], [article])
            counts[article] = counts.get(article, 0) + 1
            expected.append((article, prices.get(article), counts[article]))
    assert rig.values == expected
