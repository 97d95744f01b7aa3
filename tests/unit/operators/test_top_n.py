from __future__ import annotations

from typing import Any

import pytest

from flowsnap.errors import ConfigError, OperatorError
from flowsnap.operators import TopN
from tests.unit.operators.rig import Rig

BIDS = [("ann", 5), ("bob", 7), ("cid", 5), ("dan", 6)]


def test_only_records_that_change_the_list_put_one_out() -> None:
    rig = Rig(TopN(2, 1)).push(BIDS, [1, 2, 3, 4], "kkkk")

    assert rig.timed == [
        (("k", [("ann", 5)]), 1),
        (("k", [("bob", 7), ("ann", 5)]), 2),
        (("k", [("bob", 7), ("dan", 6)]), 4),
    ]


def test_a_batch_puts_out_one_list_for_each_key_whose_list_has_changed() -> None:
    rig = Rig(TopN(1, 1, "batch")).push(BIDS, keys="xyxy")
    assert rig.values == [("x", [("ann", 5)]), ("y", [("bob", 7)])]

    rig.push([("eve", 1), ("fay", 9)], keys="xy")

    assert rig.values[2:] == [("y", [("fay", 9)])]


def test_what_was_put_out_does_not_change_later() -> None:
    rig = Rig(TopN(2)).push([1], keys="k")

    rig.push([2, 3], keys="kk")

    assert [records for _, records in rig.values] == [[1], [2, 1], [3, 2]]


def test_a_smaller_n_after_a_restart_drops_the_rest() -> None:
    saved = Rig(TopN(3, emit="final")).push([1, 2, 3], keys="kkk").snapshot()

    assert Rig(TopN(2, emit="final"), saved=saved).end().values == [("k", [3, 2])]


def test_a_record_that_cannot_be_compared_is_named() -> None:
    with pytest.raises(OperatorError, match="on record 2 of a batch of 3"):
        Rig(TopN(2)).push([1, "two", 3], keys="kkk")


@pytest.mark.parametrize("arguments", [(0,), (1.5,), (True,), (10_001,), (1, 2.5), (1, 0, "now")])
def test_wrong_arguments_are_refused(arguments: Any) -> None:
    with pytest.raises(ConfigError):
        TopN(*arguments)
