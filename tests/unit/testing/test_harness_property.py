"""Whatever is done to a job in whatever order, in the end every record has counted once."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flowsnap.testing import Harness
from tests.unit.testing.pipelines import order, totals

PUSHES = st.tuples(st.sampled_from("abcde"), st.integers(1, 9))
STEPS = st.one_of(
    st.tuples(st.just("push"), st.lists(PUSHES, min_size=1, max_size=4)),
    st.tuples(st.just("checkpoint"), st.none()),
    st.tuples(st.just("crash"), st.none()),
    st.tuples(st.just("rescale"), st.integers(1, 4)),
    st.tuples(st.just("back"), st.integers(0, 9)),
)


def do(harness: Harness, what: str, argument: Any) -> None:
    if what == "push":
        harness.push("orders", *(order(user, amount) for user, amount in argument))
    elif what == "checkpoint":
        harness.checkpoint()
    elif what == "crash":
        harness.crash()
        harness.restore()
    elif what == "rescale":
        harness.rescale(argument)
    elif harness.checkpoints:
        harness.crash()
        harness.restore(harness.checkpoints[argument % len(harness.checkpoints)])


@settings(max_examples=40)
@given(st.lists(STEPS, max_size=12))
def test_every_record_counts_once(steps: list[tuple[str, Any]]) -> None:
    pushed = [pair for what, pairs in steps if what == "push" for pair in pairs]
    with Harness(totals()) as harness:
        for what, argument in steps:
            do(harness, what, argument)
        harness.end()

    committed = harness.output("out").committed
    expected = Counter[str]()
    for user, amount in pushed:
        expected[user] += amount
    assert len(committed) == len(pushed)
    assert {user: max(a for u, a in committed if u == user) for user, _ in pushed} == expected
