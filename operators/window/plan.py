"""Which operators run a window that has been drawn? Checks what does not go together."""

from __future__ import annotations

from typing import Any

from flowsnap.core.operator import Operator
from flowsnap.errors import ConfigError
from flowsnap.operators.window.aggregate import Aggregates
from flowsnap.operators.window.aligned import AlignedWindows
from flowsnap.operators.window.assigner import (
    Assigner,
    Global,
    Session,
    Sliding,
    SlidingCount,
    TumblingCount,
)
from flowsnap.operators.window.combine import CombineWindows
from flowsnap.operators.window.evictor import CountEvictor, Evictor, check_evictor
from flowsnap.operators.window.function import (
    AggregateProcess,
    Buffered,
    Contents,
    Incremental,
    WindowProcess,
)
from flowsnap.operators.window.operator import ClockedWindowOperator, WindowOperator
from flowsnap.operators.window.processing_time import ProcessingTimeWindows
from flowsnap.operators.window.scheduled import ScheduledWindows
from flowsnap.operators.window.sessions import SessionWindows
from flowsnap.operators.window.trigger import (
    CountTrigger,
    EventTimeTrigger,
    PurgingTrigger,
    Trigger,
    check_trigger,
)

SLICES_PER_WINDOW_MAX = 8
"""For so many slices per window that a record belongs to, merging them is cheaper than folding the
record into each of its windows."""


class WindowPlan:
    """How records are put into windows, and when these fire.

    Raises:
        ConfigError: the arguments do not go together.
    """

    def __init__(
        self,
        assigner: Assigner,
        lateness_ms: int = 0,
        late: str | None = None,
        trigger: Trigger | None = None,
        evictor: Evictor | None = None,
    ) -> None:
        self.assigner = _check_assigner(assigner)
        self.lateness_ms = lateness_ms
        self.late = late
        self.trigger = None if trigger is None else check_trigger(trigger)
        self.evictor = None if evictor is None else check_evictor(evictor)
        if isinstance(assigner, Global):
            self._check_unlimited(assigner)
        if assigner.is_processing_time and (lateness_ms or late is not None):
            raise ConfigError(f"{assigner!r} goes by the wall clock: no record is late").hint(
                "leave out allowed_lateness= and late="
            )
        if assigner.is_merging and self.trigger is not None and not self.trigger.can_merge():
            raise ConfigError(f"{self.trigger!r} cannot be used with sessions").hint(
                "define on_merge, which is called when sessions become one"
            )
        if isinstance(assigner, TumblingCount):
            self.trigger = PurgingTrigger(CountTrigger(assigner.n))
        elif isinstance(assigner, SlidingCount):
            self.trigger = CountTrigger(assigner.every)
            self.evictor = CountEvictor(assigner.n)

    def aggregate(self, aggregates: Aggregates) -> tuple[Operator, CombineWindows | None]:
        """Return the operator, and what may combine records before the shuffle.

        With a side output for late records nothing is combined: they could not be told apart. In
        processing time neither: records have their time where their window is.
        """
        is_combined = self.late is None and not self.assigner.is_processing_time
        if is_combined and self._is_sliced(aggregates):
            assert isinstance(self.assigner, Sliding)
            return self._sliced(aggregates, is_merging=True), CombineWindows(
                self.assigner, aggregates
            )
        return self._by_the_clock(self._aggregating(aggregates)), None

    def process(self, process: WindowProcess[Any, Any]) -> Operator:
        """Return the operator that keeps all records of a window for ``process``."""
        return self._by_the_clock(self._general(Buffered(process, self.evictor)))

    def _aggregating(self, aggregates: Aggregates) -> ScheduledWindows:
        if self._is_sliced(aggregates):
            return self._sliced(aggregates, is_merging=False)
        if self.evictor is not None:
            return self._general(Buffered(AggregateProcess(aggregates), self.evictor))
        if isinstance(self.assigner, Session) and self._is_default():
            return SessionWindows(
                self.assigner, aggregates, lateness_ms=self.lateness_ms, late=self.late
            )
        return self._general(Incremental(aggregates))

    def _sliced(self, aggregates: Aggregates, *, is_merging: bool) -> AlignedWindows:
        assert isinstance(self.assigner, Sliding)
        return AlignedWindows(
            self.assigner,
            aggregates,
            lateness_ms=self.lateness_ms,
            late=self.late,
            is_merging=is_merging,
        )

    def _general(self, contents: Contents) -> WindowOperator:
        trigger = self.trigger or EventTimeTrigger()
        kind = ClockedWindowOperator if trigger.needs_processing_time() else WindowOperator
        return kind(
            self.assigner,
            contents,
            trigger=trigger,
            lateness_ms=self.lateness_ms,
            late=self.late,
        )

    def _by_the_clock(self, windows: ScheduledWindows) -> Operator:
        return ProcessingTimeWindows(windows) if self.assigner.is_processing_time else windows

    def _is_sliced(self, aggregates: Aggregates) -> bool:
        assigner = self.assigner
        if not isinstance(assigner, Sliding) or not self._is_default() or self.evictor is not None:
            return False
        if assigner.slices_per_window == 1:
            return True
        windows_per_record = -(-assigner.size_ms // assigner.every_ms)
        is_cheap = assigner.slices_per_window <= SLICES_PER_WINDOW_MAX * windows_per_record
        return is_cheap and not aggregates.is_ordered

    def _is_default(self) -> bool:
        """Return whether the end of a window is all that makes it fire."""
        trigger = self.trigger
        return trigger is None or (isinstance(trigger, EventTimeTrigger) and trigger.is_plain)

    def _check_unlimited(self, assigner: Global) -> None:
        if self.lateness_ms or self.late is not None:
            raise ConfigError(f"{assigner!r} is all of time: no record is late for it").hint(
                "leave out allowed_lateness= and late="
            )
        if not isinstance(assigner, TumblingCount | SlidingCount):
            return
        if self.trigger is not None or self.evictor is not None:
            raise ConfigError(f"{assigner!r} has a trigger and an evictor of its own").hint(
                "use Global() with trigger= and evictor= instead"
            )


def _check_assigner(assigner: object) -> Assigner:
    if not isinstance(assigner, Assigner):
        raise ConfigError(f"window: {assigner!r} does not say which windows there are").hint(
            'pass an instance, such as Tumbling("1m") or Session("30s")'
        )
    return assigner
