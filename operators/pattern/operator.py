"""The operator that looks for a pattern in the records of each key.

Records with event times are kept until the watermark has passed them, and are shown to the matcher
in the order of their times, those of one time as they came. Records without are shown as they come,
and ``within`` is measured by the wall clock.

Source: Flink CEP, "Handling Lateness in Event Time".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from flowsnap.core.element import Batch
from flowsnap.core.key import encode_key
from flowsnap.core.operator import MISSING, Operator, OperatorContext
from flowsnap.core.watermark import MAX_WATERMARK
from flowsnap.errors import ConfigError, StateIncompatible
from flowsnap.operators.pattern.definition import Pattern
from flowsnap.operators.pattern.nfa import Match, Matcher, Outcome, Outcomes
from flowsnap.operators.pattern.runs import Runs
from flowsnap.operators.pattern.skip import Skip
from flowsnap.operators.rolling import PAGE_RECORDS
from flowsnap.operators.window.lateness import LateRecords

LATE = "late"
"""The side output for records that come after event time has passed them."""

WITHIN = "within"
"""The name of the timer for when the time of a partial match is up."""


class MatchPattern(Operator):
    """Emits what ``fn(match)`` makes of each match: a value, or several where it ``is_flat``.

    A match is decided by a record, or by ``within`` passing; its event time is that moment.
    Partial matches whose time is up go to the side output ``timed_out``.

    Raises:
        ConfigError: the arguments do not go together.
    """

    uses_processing_time = True

    def __init__(
        self,
        pattern: Pattern,
        fn: Callable[[Match], Any],
        *,
        skip: Skip = Skip.NO,
        timed_out: str | None = None,
        is_flat: bool = False,
    ) -> None:
        if not isinstance(pattern, Pattern):
            raise ConfigError(f"pattern: {pattern!r} is not a Pattern").hint(
                'Pattern.begin("a", where=...).next("b", where=...)'
            )
        if not isinstance(skip, Skip):
            raise ConfigError(f"pattern: skip: {skip!r} is not a Skip").hint(
                'Skip.NO, Skip.TO_NEXT, Skip.PAST_LAST, Skip.to_first("b") or Skip.to_last("b")'
            )
        if timed_out is not None and pattern.within_ms is None:
            raise ConfigError("pattern: timed_out needs a pattern whose time can be up").hint(
                'add .within("10s") to the pattern'
            )
        if timed_out == LATE:
            raise ConfigError(f"pattern: timed_out: {LATE!r} is the side output of late records")
        self.matcher = Matcher(pattern, skip)
        self.fn = fn
        self.timed_out = timed_out
        self.is_flat = is_flat

    def open(self, context: OperatorContext) -> None:
        self._context = context
        self._table = context.table("runs")
        self._waiting = context.map_state("waiting")
        self._timers = context.event_timers("pattern")
        self._clock = context.processing_timers("pattern")
        self._late = LateRecords(context, LATE)
        self._beside = None if self.timed_out is None else context.side_output(self.timed_out)
        self._passed_ms = context.watermark_ms
        self._is_timed: bool | None = None

    def process(self, batch: Batch) -> Batch:
        """Keep records with event times, and match those without.

        Raises:
            ConfigError: records come both with and without event times.
        """
        assert batch.keys is not None, "a keyed operator was given a batch without keys"
        if not batch.values:
            return Batch([])
        is_timed = batch.timestamps is not None
        if self._is_timed not in (None, is_timed):
            raise ConfigError(
                f"operator {self._context.operator!r}: some records have event times, some do not"
            ).hint("assign event times to every input of the union")
        self._is_timed = is_timed
        if batch.timestamps is not None:
            self._keep(batch.keys, batch.timestamps, batch.values)
            return Batch([])
        now_ms, outputs = self._context.processing_time_ms(), _Outputs(self, is_timed=False)
        groups: dict[Any, list[Any]] = {}
        for key, value in zip(batch.keys, batch.values, strict=True):
            groups.setdefault(key, []).append(value)
        for key, records in groups.items():
            self._feed(key, records, now_ms, outputs)
        return outputs.batch()

    def advance(self, watermark_ms: int) -> Iterator[Batch]:
        outputs = _Outputs(self, is_timed=True)
        for at_ms, key, name in self._timers.due(watermark_ms):
            if name == WITHIN:
                self._expire(key, at_ms, outputs)
            else:
                self._context.key = key
                records = self._waiting.get(at_ms) or []
                self._waiting.remove(at_ms)
                self._feed(key, records, at_ms, outputs)
            if len(outputs.values) >= PAGE_RECORDS:
                yield outputs.batch()
        if outputs.values:
            yield outputs.batch()
        if watermark_ms == MAX_WATERMARK and self.matcher.may_hold:
            yield from self._ended()
        self._passed_ms = watermark_ms

    def on_processing_time(self, now_ms: int) -> Iterator[Batch]:
        outputs = _Outputs(self, is_timed=False)
        for at_ms, key, _ in self._clock.due(now_ms):
            self._expire(key, at_ms, outputs)
        if outputs.values:
            yield outputs.batch()

    def next_processing_time_ms(self) -> int | None:
        return None if self.matcher.within_ms is None else self._clock.next_ms()

    def emit_beside(self, outcomes: list[Outcome], *, is_timed: bool) -> None:
        """Emit partial matches whose time is up."""
        if self._beside is not None:
            times = [one.at_ms for one in outcomes] if is_timed else None
            self._beside.add_all([one.match for one in outcomes], times)

    def _keep(self, keys: list[Any], times: list[int], values: list[Any]) -> None:
        """Keep the records of a batch until event time has passed them."""
        groups: dict[tuple[Any, int], list[Any]] = {}
        for key, at_ms, value in zip(keys, times, values, strict=True):
            groups.setdefault((key, at_ms), []).append(value)
        passed_ms, context, waiting = self._context.watermark_ms, self._context, self._waiting
        for (key, at_ms), records in groups.items():
            if at_ms <= passed_ms:
                self._late.take(Batch(records, [at_ms] * len(records)))
                continue
            context.key = key
            known = waiting.get(at_ms)
            if known is None:
                waiting.put(at_ms, records)
                self._timers.register(at_ms, key)
            else:
                known += records

    def _feed(self, key: Any, records: list[Any], at_ms: int, outputs: _Outputs) -> None:
        """Show records of one key and time to the matcher."""
        runs, matcher = self._runs(key), self.matcher
        is_known = runs is not None
        runs = runs or matcher.runs(is_timed=outputs.is_timed)
        before_ms = matcher.deadline_ms(runs)
        for record in records:
            outputs.add(matcher.feed(runs, record, at_ms))
        self._remember(key, runs, is_known=is_known)
        self._await(key, runs, before_ms)

    def _expire(self, key: Any, now_ms: int, outputs: _Outputs) -> None:
        runs = self._runs(key)
        if runs is None:
            return
        before_ms = self.matcher.deadline_ms(runs)
        outputs.add(self.matcher.expire(runs, now_ms))
        self._remember(key, runs, is_known=True)
        self._await(key, runs, before_ms)

    def _ended(self) -> Iterator[Batch]:
        """Yield what no record can change any more, since none comes."""
        after_ms = self._passed_ms + 1  # Whoever is behind must not take them for late.
        for key, runs in sorted(self._table.items(), key=lambda entry: encode_key(entry[0])):
            matches = self.matcher.end(self._checked(runs))
            self._table.delete(key)
            outputs = _Outputs(self, is_timed=runs.is_timed)
            later = [one._replace(at_ms=max(one.at_ms, after_ms)) for one in matches]
            outputs.add(Outcomes(later, []))
            if outputs.values:
                yield outputs.batch()

    def _runs(self, key: Any) -> Runs | None:
        runs = self._table.get(key)
        return None if runs is MISSING else self._checked(runs)

    def _checked(self, runs: Runs) -> Runs:
        """Return what is under way, if it is of our pattern.

        Raises:
            StateIncompatible: the pattern had other steps when it was written.
        """
        if runs.shape != self.matcher.automaton.shape:
            raise StateIncompatible(
                f"operator {self._context.operator!r}: the checkpoint has partial matches of "
                "another pattern"
            ).hint("give the step another name when its pattern changes, or start fresh")
        return runs

    def _remember(self, key: Any, runs: Runs, *, is_known: bool) -> None:
        if not runs.is_empty:
            self._table.put(key, runs)
        elif is_known:
            self._table.delete(key)

    def _await(self, key: Any, runs: Runs, before_ms: int | None) -> None:
        """Set the timer for the oldest partial match, if that is another than before."""
        deadline_ms = self.matcher.deadline_ms(runs)
        if deadline_ms is not None and deadline_ms != before_ms:
            timers = self._timers if runs.is_timed else self._clock
            timers.register(deadline_ms, key, WITHIN)


class _Outputs:
    """What comes out for matches, until it leaves as a batch."""

    def __init__(self, operator: MatchPattern, *, is_timed: bool) -> None:
        self.is_timed = is_timed
        self.values: list[Any] = []
        self.times: list[int] = []
        self._operator = operator

    def add(self, outcomes: Outcomes) -> None:
        """Add what comes out for the matches, and emit what has timed out."""
        fn, is_flat = self._operator.fn, self._operator.is_flat
        for match, at_ms in outcomes.matches:
            made = fn(match)
            values: Iterable[Any] = (made,) if not is_flat else made or ()
            self.values += values
            self.times += [at_ms] * (len(self.values) - len(self.times))
        if outcomes.timed_out:
            self._operator.emit_beside(outcomes.timed_out, is_timed=self.is_timed)

    def batch(self) -> Batch:
        """Return what there is, and begin anew."""
        values, times = self.values, self.times
        self.values, self.times = [], []
        return Batch(values, times if self.is_timed else None)
