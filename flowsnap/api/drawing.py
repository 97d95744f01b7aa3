"""The drawing behind a pipeline: its steps in order of creation, and the job graph made of them.

A step knows the steps that it reads from. Names and values are checked when a step is added,
where the traceback points at the user's line; what needs the whole is checked by ``graph``.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import FrameType
from typing import NamedTuple

from flowsnap.core.graph import EdgeSpec, JobGraph, OperatorKind, OperatorSpec, Partitioning
from flowsnap.core.ids import OperatorId
from flowsnap.core.operator import Operator, Sink, Source
from flowsnap.errors import ConfigError
from flowsnap.operators.rolling import Rolling
from flowsnap.operators.watermarks import Stamp

NAME_LENGTH_MAX = 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class Place(NamedTuple):
    """A line of the user's code."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Input(NamedTuple):
    """A step that another reads from, and how; None: as the parallelisms suggest.

    ``port`` is the input of the reading step that it feeds, ``tag`` the side output that it reads.
    """

    step: Step
    partitioning: Partitioning | None = None
    port: int = 0
    tag: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What is to be drawn; an empty ``name`` is given one, None as ``parallelism`` is the job's.

    ``follows_input``: the parallelism is that of the inputs, where they agree on one.
    """

    code: Operator | Source | Sink
    inputs: tuple[Input, ...] = ()
    name: str | None = None
    parallelism: int | None = None
    kind: OperatorKind = OperatorKind.OPERATOR
    is_keyed: bool = False
    follows_input: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One operator as drawn."""

    name: OperatorId
    request: Request
    place: Place

    @property
    def type(self) -> str:
        """The name of the class that does the work."""
        return type(self.request.code).__name__


class Drawing:
    """The steps of one pipeline, by name, in order of creation."""

    def __init__(self) -> None:
        self.steps: dict[OperatorId, Step] = {}
        self.feedback: list[tuple[Step, Input]] = []
        self._types: Counter[str] = Counter()

    def add(self, request: Request) -> Step:
        """Add a step.

        Raises:
            ConfigError: its name is malformed or taken, or its parallelism is no positive number.
        """
        place = caller()
        check_parallelism(request.parallelism)
        name = OperatorId(self.name_of(request.code, request.name))
        if name in self.steps:
            former = self.steps[name].place
            raise ConfigError(
                f"two steps are named {name!r}: the first at {former}, the second at {place}"
            ).hint("pass name= to one of them: the name is the identity of its state")
        step = Step(name, request, place)
        self.steps[name] = step
        return step

    def add_dead_letters(self, source: Step) -> Step:
        """Add the step that tells records of a source from its dead letters."""
        from flowsnap.connectors.dead_letters import DeadLetters  # noqa: PLC0415 - few have them

        name = _longer(source.name, "-letters")
        return self.add(Request(DeadLetters(), (Input(source),), name, follows_input=True))

    def add_fitted(self, sink: Request) -> Input:
        """Add a sink, behind a step that tells what it could not take; return its dead letters.

        Raises:
            ConfigError: as of ``add``; or the sink does not tell that.
        """
        from flowsnap.connectors.dead_letters import DEAD_LETTER  # noqa: PLC0415 - few have them
        from flowsnap.connectors.fitting import Fitting  # noqa: PLC0415 - few have dead letters

        code = sink.code
        assert isinstance(code, Sink)
        if type(code).misfits is Sink.misfits:
            raise ConfigError(
                f"dead_letters: {type(code).__name__} does not tell which records it can take"
            ).hint("test records in a process step with a side output, or define misfits")
        name = self.name_of(code, sink.name)
        request = Request(Fitting(code, name), sink.inputs, _longer(name, "-fit"), sink.parallelism)
        fitting = self.add(request)
        self.add(replace(sink, name=name, inputs=(Input(fitting),)))
        return Input(fitting, tag=DEAD_LETTER)

    def add_letters_sink(self, sink: Sink, letters: Input) -> None:
        """Add a sink of the dead letters of another, as wide as that."""
        name = _longer(letters.step.name.removesuffix("-fit"), "-letters")
        self.add(Request(sink, (letters,), name, kind=OperatorKind.SINK, follows_input=True))

    def feed(self, loop: Step, inputs: tuple[Input, ...]) -> None:
        """Have the outputs that ``inputs`` name go to ``loop``.

        Raises:
            ConfigError: one of them does so already.
        """
        for above in inputs:
            if any(loop is fed and above.step is by.step for fed, by in self.feedback):
                raise ConfigError(f"loop {loop.name!r} is fed by {above.step.name!r} twice")
            self.feedback.append((loop, above))

    def graph(self, job: str, parallelism: int, max_parallelism: int) -> JobGraph:
        """Return the job graph, where a step is ``parallelism`` wide unless it says otherwise.

        Raises:
            ConfigError: the drawing is not complete, or no job can come of it.
        """
        self._check()
        widths = self._widths(parallelism)
        operators = tuple(
            OperatorSpec(
                step.name, step.request.kind, widths[step.name], step.type, step.request.is_keyed
            )
            for step in self.steps.values()
        )
        return JobGraph(job, operators, tuple(self._edges(widths)), max_parallelism)

    def name_of(self, code: Operator | Source | Sink, name: str | None) -> str:
        """Return ``name``, or else the next automatic name for what ``code`` is, once.

        Automatic names count the steps of a type in order of creation: "map-1", "map-2".

        Raises:
            ConfigError: ``name`` is malformed.
        """
        if name is not None:
            return check_name(name, "name")
        kind = _WORD_START.sub("_", type(code).__name__).lower()
        self._types[kind] += 1
        return f"{kind}-{self._types[kind]}"

    def _widths(self, parallelism: int) -> dict[OperatorId, int]:
        widths: dict[OperatorId, int] = {}
        for step in self.steps.values():
            request = step.request
            width = request.parallelism or parallelism
            inputs = {widths[above.step.name] for above in request.inputs}
            if request.follows_input and request.parallelism is None and len(inputs) == 1:
                width = inputs.pop()
            widths[step.name] = width
        return widths

    def _edges(self, widths: dict[OperatorId, int]) -> Iterator[EdgeSpec]:
        for step in self.steps.values():
            for above, partitioning, port, tag in step.request.inputs:
                is_even = widths[above.name] == widths[step.name]
                natural = Partitioning.FORWARD if is_even else Partitioning.REBALANCE
                yield EdgeSpec(above.name, step.name, partitioning or natural, port, tag)
        for loop, (above, partitioning, _, tag) in self.feedback:
            is_even = widths[above.name] == widths[loop.name]
            natural = Partitioning.FORWARD if is_even else Partitioning.REBALANCE
            yield EdgeSpec(
                above.name, loop.name, partitioning or natural, tag=tag, is_feedback=True
            )

    def _check(self) -> None:
        if not self.steps:
            raise ConfigError("the pipeline is empty").hint("begin with pipeline.source(...)")
        read = {above.step.name for step in self.steps.values() for above in step.request.inputs}
        read |= {above.step.name for _, above in self.feedback}
        fed = {loop.name for loop, _ in self.feedback}
        for step in self.steps.values():
            if step.request.kind is not OperatorKind.SINK and step.name not in read:
                raise ConfigError(
                    f"nothing reads from {step.name!r} ({step.type}, drawn at {step.place})"
                ).hint("end the stream with .sink(...); Discard() is a sink that drops everything")
            if step.request.kind is OperatorKind.LOOP and step.name not in fed:
                raise ConfigError(f"loop {step.name!r} (drawn at {step.place}) is never fed").hint(
                    "close it: loop.feed(stream)"
                )
            self._check_end(step)
            _check_event_time(step)
            self._check_dead_letters(step)

    def _check_dead_letters(self, step: Step) -> None:
        """Check that somebody reads the dead letters that were asked for: they would be lost."""
        if not getattr(step.request.code, "has_dead_letters", False):
            return
        if step.request.kind is OperatorKind.SINK:
            raise ConfigError(
                f"{step.name!r} (drawn at {step.place}) has on_error, which is for sources"
            ).hint("to have records leave that do not fit: .sink(..., dead_letters=...)")
        readers = [one for one in self.steps.values() if one.request.inputs]
        beside = [above.step for one in readers for above in one.request.inputs if above.tag]
        if not any(step in (one, *(above.step for above in one.request.inputs)) for one in beside):
            raise ConfigError(
                f"nothing reads the dead letters of {step.name!r} (drawn at {step.place})"
            ).hint('end stream.side_output("dead-letter") with .sink(...); Discard() drops them')

    def _check_end(self, step: Step) -> None:
        """Check that what emits at the end of input has an input that ends."""
        code = step.request.code
        if not isinstance(code, Rolling) or code.emit != "final":
            return
        for source in _sources(step):
            if isinstance(source.request.code, Source) and not source.request.code.bounded:
                raise ConfigError(
                    f"{step.name!r} emits at the end of input, and {source.name!r} never ends"
                ).hint('use emit="each" or emit="batch"')


def _check_event_time(step: Step) -> None:
    """Check that what needs event time can get it from everywhere.

    Sources and operators that are not ours may give records their times by themselves.
    """
    if not getattr(step.request.code, "needs_event_time", False):
        return
    waiting, seen = list(step.request.inputs), {step.name}
    while waiting:
        above = waiting.pop().step
        code = above.request.code
        if above.name in seen or not _is_ours(code) or isinstance(code, Stamp):
            continue
        seen.add(above.name)
        waiting += above.request.inputs
        if isinstance(code, Source) and code.event_time is None:
            raise ConfigError(
                f"{step.name!r} ({step.type}, drawn at {step.place}) needs event times, and the "
                f"records of {above.name!r} have none"
            ).hint("call assign_timestamps(...) in between, or write source(..., watermark=...)")


def _longer(name: str, end: str) -> str:
    return name[: NAME_LENGTH_MAX - len(end)] + end


def _is_ours(code: object) -> bool:
    return type(code).__module__.startswith("flowsnap.")


def _sources(step: Step) -> Iterator[Step]:
    """Yield every source above ``step``."""
    waiting, seen = [step], {step.name}
    while waiting:
        current = waiting.pop()
        if not current.request.inputs:
            yield current
        for above in current.request.inputs:
            if above.step.name not in seen:
                seen.add(above.step.name)
                waiting.append(above.step)


def check_name(name: object, what: str, *, length_max: int = NAME_LENGTH_MAX) -> str:
    """Return the name of a job or step; ``what`` says in the error where it stands.

    Raises:
        ConfigError: it is malformed.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > length_max:
        raise ConfigError(f"{what}: {name!r} is not a name").hint(
            f"1 to {length_max} letters, digits, '.', '_' or '-', the first a letter or digit"
        )
    return name


def check_parallelism(parallelism: object, what: str = "parallelism") -> None:
    """Check that a parallelism is None or a positive int.

    Raises:
        ConfigError: it is not.
    """
    if parallelism is None:
        return
    if not isinstance(parallelism, int) or isinstance(parallelism, bool) or parallelism < 1:
        raise ConfigError(f"{what}: {parallelism!r} is not a positive int")


def caller() -> Place:
    """Return the line outside ``flowsnap.api`` from which we were called."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("flowsnap.api"):
        frame = frame.f_back
    if frame is None:
        return Place("<unknown>", 0)
    return Place(frame.f_code.co_filename, frame.f_lineno)
