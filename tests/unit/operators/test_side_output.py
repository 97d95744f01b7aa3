from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowsnap.errors import ConfigError, OperatorError
from flowsnap.operators.side_output import REST, OutputTag, SplitBy, tag_name
from tests.unit.operators.rig import Rig


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=5))
def test_every_record_goes_one_way_or_the_other_in_order(batches: list[list[int]]) -> None:
    rig, values = Rig(SplitBy(lambda n: n % 3 == 0)), [n for batch in batches for n in batch]

    for batch in batches:
        rig.push(batch, batch)

    assert rig.timed == [(n, n) for n in values if n % 3 == 0]
    assert rig.side(REST) == [n for n in values if n % 3]


def test_keys_stay_with_their_records() -> None:
    rig = Rig(SplitBy(bool)).push([1, 0, 2], None, ["a", "b", "c"])

    assert rig.out[0].keys == ["a", "c"]


def test_failing_predicate_names_the_record() -> None:
    with pytest.raises(OperatorError, match=r"ZeroDivisionError.* on record 2 of a batch of 2"):
        Rig(SplitBy(lambda n: 1 // n)).push([1, 0])


def test_tags_of_one_name_are_one_tag() -> None:
    assert OutputTag("late") == OutputTag("late")
    assert tag_name(OutputTag("late")) == tag_name("late") == "late"


@pytest.mark.parametrize("name", ["", "a b", "-a", "x" * 65, None, 3])
def test_malformed_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is not a name for a side output"):
        OutputTag(name)
