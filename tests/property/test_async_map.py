"""Requests answered in any order, between watermarks and restarts: nothing overtakes or is lost."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flowsnap.operators import AsyncMap
from tests.unit.operators.gate import Gate, restarted, settle
from tests.unit.operators.rig import Rig

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(1, 3)),
        st.tuples(st.just("answer"), st.integers(0, 20)),
        st.tuples(st.just("watermark"), st.just(0)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=25,
)


class Session:
    """A rig under a random script. Record n has the event time n; a watermark tells the newest."""

    def __init__(self, *, ordered: bool) -> None:
        self.gate = Gate()
        self.rig = Rig(AsyncMap(self.gate, ordered=ordered))
        self.pushed = 0
        self.open: list[int] = []
        self.told = -1

    def step(self, what: str, number: int) -> None:
        match what:
            case "push":
                new = list(range(self.pushed, self.pushed + number))
                self.rig.push(new, new)
                self.pushed += number
                self.open += new
            case "answer" if self.open:
                value = self.open.pop(number % len(self.open))
                self.gate.answer(value, ("answer", value))
                settle(self.rig, self.gate)
            case "watermark" if self.pushed:
                self.told = self.pushed - 1
                self.rig.watermark(self.told)
            case "restart":
                self.rig = restarted(self.rig, self.gate)
                left = {value for _, value in self.rig.values}
                self.open = [n for n in range(self.pushed) if n not in left]

            case _:
                pass  # Nothing to answer, or to tell the time by.

    def check(self) -> None:
        left = [value for _, value in self.rig.values]
        assert len(set(left)) == len(left)
        for watermark_ms in self.rig.watermarks:
            assert set(range(watermark_ms + 1)) <= set(left)
        assert self.rig.watermarks == sorted(set(self.rig.watermarks))

    def finish(self) -> list[Any]:
        for value in list(self.open):
            self.open.remove(value)
            self.gate.answer(value, ("answer", value))
        settle(self.rig, self.gate)
        self.check()
        assert self.told == -1 or self.rig.watermarks[-1] == self.told
        self.rig.end()
        assert [at for _, at in self.rig.timed] == [value for _, value in self.rig.values]
        return [value for _, value in self.rig.values]


def finished(steps: list[tuple[str, int]], *, ordered: bool) -> tuple[list[int], int]:
    session = Session(ordered=ordered)
    try:
        for step in steps:
            session.step(*step)
            session.check()
        return session.finish(), session.pushed
    finally:
        session.rig.chain.close()


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_ordered_results_are_those_of_a_map_whenever_the_answers_come(
    steps: list[tuple[str, int]],
) -> None:
    values, pushed = finished(steps, ordered=True)

    assert values == list(range(pushed))


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_unordered_results_are_each_there_once_and_behind_no_watermark(
    steps: list[tuple[str, int]],
) -> None:
    values, pushed = finished(steps, ordered=False)

    assert sorted(values) == list(range(pushed))
