from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowsnap.config import JobConfig, Restart, duration_ms, size_bytes
from flowsnap.core.restart import RestartPolicy
from flowsnap.errors import ConfigError

# --- durations


@pytest.mark.parametrize(
    ("value", "wanted_ms"),
    [
        ("500ms", 500),
        ("10s", 10_000),
        ("1.5 s", 1_500),
        ("5m", 300_000),
        ("5min", 300_000),
        ("2h", 7_200_000),
        ("1d", 86_400_000),
        (" 3s ", 3_000),
        ("0ms", 0),
        (timedelta(minutes=2), 120_000),
        (timedelta(microseconds=1_500), 2),
    ],
)
def test_a_duration_is_read_in_ms(value: str | timedelta, wanted_ms: int) -> None:
    assert duration_ms(value, "pause") == wanted_ms


@pytest.mark.parametrize(
    "value", ["10", "s", "10 parsecs", "-5s", "1,5s", "", "5s 3s", 10, 1.5, None, b"5s"]
)
def test_what_is_no_duration_is_refused_with_the_name_of_the_setting(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"pause: .* is not a duration") as caught:
        duration_ms(value, "pause")
    assert '"500ms"' in caught.value.__notes__[0]


def test_a_duration_that_is_too_short_is_refused() -> None:
    assert duration_ms("2ms", "pause", at_least_ms=2) == 2
    with pytest.raises(ConfigError, match="pause: '1ms' is shorter than 2 ms"):
        duration_ms("1ms", "pause", at_least_ms=2)
    with pytest.raises(ConfigError, match="shorter than 0 ms"):
        duration_ms(timedelta(seconds=-1), "pause")


# --- sizes


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (0, 0),
        (4096, 4096),
        ("100B", 100),
        ("1KB", 1024),
        ("64MB", 64 * 2**20),
        ("64MiB", 64 * 2**20),
        ("1.5 GB", 3 * 2**29),
        ("2tb", 2 * 2**40),
    ],
)
def test_a_size_is_read_in_bytes(value: str | int, wanted: int) -> None:
    assert size_bytes(value, "memory") == wanted


@pytest.mark.parametrize("value", ["64", "MB", "64 M", "-1KB", "", True, 1.5, None])
def test_what_is_no_size_is_refused_with_the_name_of_the_setting(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"memory: .* is not a size"):
        size_bytes(value, "memory")


def test_a_size_that_is_too_small_is_refused() -> None:
    with pytest.raises(ConfigError, match="memory: '1KB' is smaller than 2048 bytes"):
        size_bytes("1KB", "memory", at_least=2048)
    with pytest.raises(ConfigError, match="memory: -1 is smaller than 0 bytes"):
        size_bytes(-1, "memory")


@given(st.integers(0, 2**50))
def test_every_number_of_bytes_and_of_ms_is_read_back(number: int) -> None:
    assert size_bytes(f"{number}B", "memory") == size_bytes(number, "memory") == number
    assert duration_ms(f"{number}ms", "pause") == number


# --- the settings of a job


def test_the_defaults_are_within_their_bounds() -> None:
    config = JobConfig()

    assert (config.workers, config.checkpoint_mode) == (0, "exactly-once")
    RestartPolicy(config.restart)


LEAST: dict[str, Any] = {
    "workers": 0,
    "checkpoint_interval_ms": 1,
    "checkpoint_timeout_ms": 1,
    "checkpoint_pause_ms_min": 0,
    "checkpoint_failures_max": 0,
    "checkpoints_retained": 1,
    "alignment_timeout_ms": 0,
    "checkpoints_concurrent": 1,
    "state_memory_bytes": 2**20,
    "batch_bytes": 1024,
    "batch_linger_ms": 0,
    "channel_capacity_batches": 2,
    "heartbeat_interval_ms": 10,
    "heartbeat_timeout_ms": 100,
    "stall_timeout_ms": 1_000,
    "start_timeout_ms": 1_000,
    "cancel_timeout_ms": 100,
}


@pytest.mark.parametrize(("name", "least"), LEAST.items())
def test_every_number_has_a_lower_bound(name: str, least: Any) -> None:
    assert getattr(JobConfig(**{name: least}), name) == least
    with pytest.raises(ConfigError, match=f"{name}: {least - 1} is less than {least}"):
        JobConfig(**{name: least - 1})


def test_every_number_of_the_settings_has_a_bound() -> None:
    numbers = {
        name for name in JobConfig.__struct_fields__ if type(getattr(JobConfig(), name)) is int
    }

    assert numbers == LEAST.keys()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        JobConfig().workers = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        Restart().delay_ms = 2  # type: ignore[misc]
