"""Windows: what streams and keyed streams have for spans of time, and for numbers of records.

A window is drawn in two steps: which records belong together, and what is computed of them::

    payments.key_by("user").window(Tumbling("1m")).aggregate(total=Sum("amount"), n=Count())
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from flowsnap.api.drawing import NAME_LENGTH_MAX, Input, Request, check_name
from flowsnap.config import Duration, duration_ms
from flowsnap.core.graph import Partitioning
from flowsnap.core.operator import Operator
from flowsnap.errors import ConfigError
from flowsnap.operators.key_by import KeyBy
from flowsnap.operators.selector import Selector
from flowsnap.operators.side_output import OutputTag, tag_name
from flowsnap.operators.window.aggregate import (
    Aggregate,
    Aggregates,
    Count,
    Max,
    Mean,
    Min,
    Reduce,
    Sum,
)
from flowsnap.operators.window.assigner import Assigner, Window
from flowsnap.operators.window.combine import CombineWindows
from flowsnap.operators.window.evictor import Evictor
from flowsnap.operators.window.function import WindowProcess, window_process
from flowsnap.operators.window.plan import WindowPlan
from flowsnap.operators.window.result import WindowResult
from flowsnap.operators.window.trigger import Trigger

if TYPE_CHECKING:
    from flowsnap.api.drawing import Drawing
    from flowsnap.api.stream import Stream

K = TypeVar("K")
V = TypeVar("V")
U = TypeVar("U")

_COMBINE, _KEY = ".combine", ".key"


class KeyedWindows(Generic[K, V]):
    """What a keyed stream offers of windows."""

    _drawing: Drawing
    _inputs: tuple[Input, ...]

    def window(
        self,
        assigner: Assigner,
        *,
        allowed_lateness: Duration = "0s",
        late: OutputTag[V] | str | None = None,
        trigger: Trigger | None = None,
        evictor: Evictor | None = None,
    ) -> WindowedStream[K, V]:
        """Put the records of each key into windows: ``Tumbling("1m")``, ``Session("30s")``.

        A window keeps its state for ``allowed_lateness`` after event time has reached its end, and
        fires again for records that come meanwhile. Later ones go to the side output ``late``, or
        are dropped. ``trigger`` says when else a window fires, ``evictor`` which of its records
        count then.

        Raises:
            ConfigError: the arguments do not go together.
        """
        plan = _plan(assigner, allowed_lateness, late, trigger, evictor)
        return WindowedStream(self._drawing, self._inputs, plan, is_keyed=True)


class Windows(Generic[V]):
    """What a stream without keys offers of windows."""

    _drawing: Drawing
    _inputs: tuple[Input, ...]

    def window(self, *_: object, **__: object) -> NoReturn:
        """Refuse: windows are those of a key.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("window: the stream has no keys").hint(
            "write key_by(...).window(...), or window_all(...) for one window over all records"
        )

    def window_all(
        self,
        assigner: Assigner,
        *,
        allowed_lateness: Duration = "0s",
        late: OutputTag[V] | str | None = None,
        trigger: Trigger | None = None,
        evictor: Evictor | None = None,
    ) -> WindowedStream[None, V]:
        """Put all records into windows, in one subtask; see ``KeyedStream.window``.

        The key of the results is None.
        """
        plan = _plan(assigner, allowed_lateness, late, trigger, evictor)
        return WindowedStream(self._drawing, self._inputs, plan, is_keyed=False)


class WindowedStream(Generic[K, V]):
    """Records in windows; say what is to be computed of them."""

    def __init__(
        self, drawing: Drawing, inputs: tuple[Input, ...], plan: WindowPlan, *, is_keyed: bool
    ) -> None:
        self._drawing = drawing
        self._inputs = inputs
        self._plan = plan
        self._is_keyed = is_keyed

    def aggregate(
        self,
        aggregate: Aggregate | None = None,
        /,
        *,
        name: str | None = None,
        parallelism: int | None = None,
        **aggregates: Aggregate,
    ) -> Stream[WindowResult[K, Any]]:
        """Emit a ``WindowResult`` with the value of one aggregate, or of several by name."""
        made = Aggregates(aggregate, aggregates)
        operator, combine = self._plan.aggregate(made)
        return self._drawn(operator, combine, name, parallelism)

    def reduce(
        self,
        fn: Callable[[V, V], V],
        *,
        commutative: bool = False,
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[WindowResult[K, V]]:
        """Emit a ``WindowResult`` with ``fn(one, other)`` over all records of the window.

        ``fn`` is associative, and changes neither argument. It is applied in order of arrival; with
        ``commutative`` in any, so that windows which overlap can share their parts.
        """
        reduced = Reduce(fn, commutative=commutative)
        return self.aggregate(reduced, name=name, parallelism=parallelism)

    def process(
        self,
        process: WindowProcess[V, U]
        | type[WindowProcess[V, U]]
        | Callable[[K, Window, list[V]], Iterable[U] | None],
        *,
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[U]:
        """Emit what ``process(key, window, records)`` yields; all records are kept until then."""
        operator = self._plan.process(window_process(process))
        return self._drawn(operator, None, name, parallelism)

    def count(
        self, *, name: str | None = None, parallelism: int | None = None
    ) -> Stream[WindowResult[K, int]]:
        """Emit the number of records."""
        return self.aggregate(Count(), name=name, parallelism=parallelism)

    def sum(
        self, selector: Selector = None, *, name: str | None = None, parallelism: int | None = None
    ) -> Stream[WindowResult[K, Any]]:
        """Emit the sum of a field, of what a function returns, or of the records."""
        return self.aggregate(Sum(selector), name=name, parallelism=parallelism)

    def min(
        self, selector: Selector = None, *, name: str | None = None, parallelism: int | None = None
    ) -> Stream[WindowResult[K, Any]]:
        """Emit the least value of a field, of what a function returns, or of the records."""
        return self.aggregate(Min(selector), name=name, parallelism=parallelism)

    def max(
        self, selector: Selector = None, *, name: str | None = None, parallelism: int | None = None
    ) -> Stream[WindowResult[K, Any]]:
        """Emit the greatest value of a field, of what a function returns, or of the records."""
        return self.aggregate(Max(selector), name=name, parallelism=parallelism)

    def mean(
        self, selector: Selector = None, *, name: str | None = None, parallelism: int | None = None
    ) -> Stream[WindowResult[K, Any]]:
        """Emit the mean of a field, of what a function returns, or of the records."""
        return self.aggregate(Mean(selector), name=name, parallelism=parallelism)

    def _drawn(
        self,
        operator: Operator,
        combine: CombineWindows | None,
        name: str | None,
        parallelism: int | None,
    ) -> Stream[Any]:
        from flowsnap.api.stream import Stream  # noqa: PLC0415 - streams are made of windows too

        own = self._drawing.name_of(operator, name)
        check_name(own, "name", length_max=NAME_LENGTH_MAX - len(_COMBINE))
        inputs = self._inputs
        if not self._is_keyed:
            inputs, parallelism = self._keyed_by_nothing(own, parallelism), 1
        if combine is not None:
            whence = tuple(above._replace(partitioning=None) for above in inputs)
            step = self._drawing.add(Request(combine, whence, own + _COMBINE, follows_input=True))
            inputs = (Input(step, Partitioning.HASH),)
        request = Request(operator, inputs, own, parallelism, is_keyed=True)
        return Stream(self._drawing, (Input(self._drawing.add(request)),))

    def _keyed_by_nothing(self, own: str, parallelism: int | None) -> tuple[Input, ...]:
        if parallelism not in (None, 1):
            raise ConfigError(f"{own!r} has one subtask, as its windows have no key").hint(
                "write key_by(...).window(...) to have several"
            )
        request = Request(KeyBy(_nothing), self._inputs, own + _KEY, follows_input=True)
        return (Input(self._drawing.add(request), Partitioning.HASH),)


def _nothing(record: Any) -> None:
    return None


def _plan(
    assigner: Assigner,
    allowed_lateness: Duration,
    late: OutputTag[Any] | str | None,
    trigger: Trigger | None,
    evictor: Evictor | None,
) -> WindowPlan:
    return WindowPlan(
        assigner,
        duration_ms(allowed_lateness, "allowed_lateness"),
        None if late is None else tag_name(late),
        trigger,
        evictor,
    )
