from __future__ import annotations

from pathlib import Path

import pytest

from flowsnap import Pipeline
from flowsnap.connectors import Discard
from flowsnap.errors import ConfigError
from flowsnap.snapshot import Snapshot
from flowsnap.snapshot.network import Channel, Condition, NetworkSnapshot
from flowsnap.snapshot.network_snapshot import States


def snapshot(*channels: Channel) -> NetworkSnapshot:
    states = States({"SF": {"balance": 4}, "NY": {"balance": 5}})
    return NetworkSnapshot("bank", 1, states, channels, {"SF": 2, "NY": 2})


def test_state_of_a_process_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no state of a process 'LA'") as caught:
        snapshot().states["LA"]

    assert caught.value.__notes__ == ["it has those of SF, NY"]


def test_channel_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no channel NY to SF") as caught:
        snapshot(Channel("SF", "NY", 0, 0)).channel("NY", "SF")

    assert caught.value.__notes__ == ["it has SF to NY"]


def test_channel_is_found_by_its_ends() -> None:
    channel = Channel("SF", "NY", 3, 1, (2, 3), (20, 30))

    assert snapshot(channel).channel("SF", "NY") is channel
    assert snapshot(channel).in_transit == [20, 30]
    assert len(channel) == 2


@pytest.mark.parametrize(
    ("n", "m", "numbers", "holds"),
    [
        (0, 0, (), True),
        (5, 5, (), True),
        (5, 3, (4, 5), True),
        (5, 3, (5,), False),
        (5, 3, (), False),
        (5, 3, (5, 4), False),
        (5, 5, (5,), False),
        (3, 5, (), False),
    ],
)
def test_condition_of_a_channel(n: int, m: int, numbers: tuple[int, ...], holds: bool) -> None:
    assert Condition("SF to NY", n, m, numbers).holds is holds


def test_conditions_that_do_not_hold_are_named() -> None:
    wrong = snapshot(Channel("SF", "NY", 3, 1, (3,), (30,)), Channel("NY", "SF", 1, 1))

    assert wrong.violations() == ["SF to NY: n = 3, m = 1, recorded 3"]
    assert str(wrong.conditions()[1]) == "NY to SF: n = 1, m = 1, recorded nothing"


def test_snapshot_of_another_job_holds_no_network(tmp_path: Path) -> None:
    pipeline = Pipeline("numbers")
    pipeline.from_iterable([1, 2]).sink(Discard())
    pipeline.run(state_dir=tmp_path, quiet=True)

    with (
        Snapshot.open(tmp_path) as opened,
        pytest.raises(ConfigError, match="of numbers holds no network"),
    ):
        NetworkSnapshot.of(opened)
