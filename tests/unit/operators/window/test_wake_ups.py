from __future__ import annotations

import doctest

from hypothesis import given, settings
from hypothesis import strategies as st

from flowsnap.operators.window import wake_ups
from flowsnap.operators.window.wake_ups import WakeUps

INSTANTS = st.integers(0, 20)
STEPS = st.lists(st.one_of(INSTANTS, st.tuples(st.sampled_from("abc"), INSTANTS)), max_size=30)


def test_the_session_in_the_docstring_holds() -> None:
    assert doctest.testmod(wake_ups).failed == 0


def test_what_is_planned_meanwhile_is_due_as_well_in_its_order() -> None:
    planned, woken = WakeUps(), []
    planned.plan("a", 5)
    planned.plan("b", 7)

    for at_ms, key in planned.due(9):
        woken.append((at_ms, key))
        if (at_ms, key) == (5, "a"):
            planned.plan("a", 8)
            planned.plan("c", 6)

    assert woken == [(5, "a"), (6, "c"), (7, "b"), (8, "a")]
    assert planned.next_ms() is None


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_a_key_wakes_once_at_the_earliest_instant_planned(
    steps: list[int | tuple[str, int]],
) -> None:
    planned, model = WakeUps(), dict[str, int]()
    for step in [*steps, 20]:
        if isinstance(step, tuple):
            key, at_ms = step
            planned.plan(key, at_ms)
            model[key] = min(at_ms, model.get(key, at_ms))
            continue
        due = sorted((at_ms, key) for key, at_ms in model.items() if at_ms <= step)
        assert sorted(planned.due(step)) == due
        model = {key: at_ms for key, at_ms in model.items() if at_ms > step}
