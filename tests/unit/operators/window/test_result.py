from __future__ import annotations

import copy
import pickle

import msgspec
import pytest

from flowsnap.operators.window import WindowResult

TOTALS = WindowResult("ann", 0, 60_000, {"total": 7, "n": 2})


def test_several_values_are_attributes() -> None:
    assert (TOTALS.key, TOTALS.total, TOTALS.n) == ("ann", 7, 2)


@pytest.mark.parametrize("result", [TOTALS, WindowResult("ann", 0, 60_000, 7)])
def test_what_is_not_there_is_no_attribute(result: WindowResult[str, object]) -> None:
    with pytest.raises(AttributeError, match="no attribute 'mean'"):
        _ = result.mean


def test_a_result_travels_as_it_is() -> None:
    assert pickle.loads(pickle.dumps(TOTALS)) == copy.deepcopy(TOTALS) == TOTALS


def test_a_result_is_an_object_in_json() -> None:
    assert msgspec.json.encode(TOTALS) == (
        b'{"key":"ann","start":0,"end":60000,"value":{"total":7,"n":2}}'
    )
