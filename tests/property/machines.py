"""What the state machines of these tests share: how many examples, and that each can fail."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test


def examples(count: int, *, steps: int = 50) -> settings:
    """Return settings for ``count`` runs of ``steps`` steps, or as many as a larger profile asks.

    A run with files takes some 50 ms, so that in everyday tests a machine gets fewer than others.
    """
    everyday = settings.get_profile("flowsnap").max_examples
    wanted = settings().max_examples
    return settings(
        max_examples=count if wanted <= everyday else wanted,
        stateful_step_count=steps,
        suppress_health_check=[HealthCheck.too_slow],
    )


def assert_found(machine: type[RuleBasedStateMachine], match: str | None = None) -> None:
    """Show that a machine with a broken subject fails, and so is able to."""
    generates = settings(
        examples(100),
        max_examples=2_000,
        phases=[Phase.generate],
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
        print_blob=False,
    )
    with pytest.raises(AssertionError, match=match):
        run_state_machine_as_test(machine, settings=generates)
