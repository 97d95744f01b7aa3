"""Output that timers alone have made, while the source has brought nothing new, is committed.

KAFKA-14294: there a commit without new offsets was passed over, and its output with it.
"""

from __future__ import annotations

from flowsnap.testing import Harness
from tests.unit.testing.pipelines import reminders


def test_output_of_timers_is_committed_though_no_position_has_changed() -> None:
    with Harness(reminders()) as harness:
        harness.push("words", "apple", "banana")
        harness.checkpoint()

        harness.advance("1h")
        assert harness.output("out").pending == ["apple again at 5000", "banana again at 5000"]
        harness.checkpoint()

        assert harness.output("out").pending == []
        assert len(harness.output("out").committed) == 4


def test_output_of_timers_comes_once_over_a_crash_though_no_position_has_changed() -> None:
    with Harness(reminders()) as harness:
        harness.push("words", "apple")
        harness.checkpoint()
        harness.advance("1h")
        harness.checkpoint()

        harness.crash()
        harness.restore()
        harness.advance("1h")
        harness.end()

        assert harness.output("out").committed == ["apple", "apple again at 5000"]
