"""What has been asked of a running job, and when is each request answered?

Somebody may want a savepoint, a stop (with or without one, at a barrier or by draining the input)
or a cancel, several at once, while checkpoints come and go, attempts fail and the job ends by
itself. Every request ends in exactly one answer, whatever happens in which order.

- A savepoint is the first aligned checkpoint that is triggered after it was asked for, so that it
  holds all that had been read by then, and nothing in transit. If that checkpoint is aborted, so is
  the savepoint. A failure of the attempt is not its end: the next attempt is asked for the
  checkpoint again.
- A stop is answered when the job has ended. Its savepoint is made of the final checkpoint, and only
  once every sink has committed it: where the job fails between the two, the answer says that the
  checkpoint is complete and its output is not.
- While the input is being drained no savepoint is begun: it would hold half of an end. The final
  checkpoint serves those who wait.
- A second stop joins the first. A drain cannot join a stop at a barrier that is under way.

Invariant: a request is in ``waiting`` from ``Asked`` until ``Answer`` or ``Export`` names it, once.

Source: Flink, "Savepoints" and "stop with savepoint" (FLIP-34); a stop that hung between savepoint
and end, or was both failed and stopped, is FLINK-21132, FLINK-24161. Deviation: there the savepoint
of a stop exists before its output is committed, and may be left behind by a stop that failed.

Example:
    >>> requests = Requests()
    >>> requests.handle(Started())
    []
    >>> requests.handle(Asked(Request("a", "savepoint", "monday")))
    [TriggerSavepoint()]
    >>> requests.handle(Triggered(CheckpointId(4)))
    []
    >>> requests.handle(Completed(CheckpointId(4), is_final=False))
    [Export(request_id='a', name='monday', checkpoint_id=4, state='running')]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import msgspec

from flowsnap.core.ids import CheckpointId
from flowsnap.errors import LocalProtocolError

RequestKind = Literal["savepoint", "stop", "cancel"]

_ENDED_WELL = {"stopped", "finished"}


class Request(msgspec.Struct, frozen=True):
    """What somebody asks of a running job.

    ``savepoint``: the name of the one to be made, empty where it is to be called after its
    checkpoint; None: none is to be made. ``is_drain``: stop as if all input had ended.
    """

    id: str
    kind: RequestKind
    savepoint: str | None = None
    is_drain: bool = False


class Result(msgspec.Struct, frozen=True):
    """What became of a request; ``error`` is empty where it was fulfilled.

    ``state``: that of the job. ``savepoint``: its directory, where one was asked for and made.
    """

    state: str
    savepoint: str = ""
    error: str = ""
    hint: str = ""


# --- events ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """A request has come in."""

    request: Request


@dataclass(frozen=True, slots=True)
class Started:
    """The tasks of an attempt run."""


@dataclass(frozen=True, slots=True)
class Triggered:
    """A checkpoint has been triggered, for whatever reason; savepoints are made of aligned ones."""

    checkpoint_id: CheckpointId
    is_aligned: bool = True


@dataclass(frozen=True, slots=True)
class Completed:
    """A checkpoint is complete, and if it is not the final one, its output is committed."""

    checkpoint_id: CheckpointId
    is_final: bool


@dataclass(frozen=True, slots=True)
class Aborted:
    """A checkpoint has been given up."""

    checkpoint_id: CheckpointId
    reason: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The job has ended; ``state`` is its last one."""

    state: str
    message: str


Event = Asked | Started | Triggered | Completed | Aborted | Ended


# --- actions ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TriggerSavepoint:
    """Have the coordinator trigger a checkpoint that is to become a savepoint."""


@dataclass(frozen=True, slots=True)
class StopJob:
    """Have the job end with a final checkpoint at a barrier."""


@dataclass(frozen=True, slots=True)
class DrainJob:
    """Tell every worker that the input of its sources has ended, and trigger nothing periodic."""


@dataclass(frozen=True, slots=True)
class CancelJob:
    """Have the job end at once."""


@dataclass(frozen=True, slots=True)
class Export:
    """Make the savepoint ``name`` of a complete checkpoint; answer the request with the outcome."""

    request_id: str
    name: str
    checkpoint_id: CheckpointId
    state: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer the request."""

    request_id: str
    result: Result


Action = TriggerSavepoint | StopJob | DrainJob | CancelJob | Export | Answer


# --- the machine -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Waiting:
    request: Request
    after: CheckpointId  # only a checkpoint with a higher id was triggered after the request


class Requests:
    """What has been asked of a running job, and when is each request answered?"""

    def __init__(self) -> None:
        self._waiting: dict[str, _Waiting] = {}
        self._newest = CheckpointId(0)  # triggered
        self._pending: set[CheckpointId] = set()
        self._final: CheckpointId | None = None  # complete
        self._is_running = False
        self._ending: Literal["stop", "drain", "cancel"] | None = None
        self._end: Ended | None = None

    @property
    def waiting(self) -> tuple[str, ...]:
        """The ids of the requests that have no answer yet, in the order they came."""
        return tuple(self._waiting)

    @property
    def is_draining(self) -> bool:
        """Whether every attempt is to be told that its input has ended."""
        return self._ending == "drain"

    def handle(self, event: Event) -> list[Action]:
        """Take one event and return what must be done, in this order.

        Raises:
            LocalProtocolError: a request comes twice.
        """
        match event:
            case Asked(request):
                return self._ask(request)
            case Started():
                return self._start()
            case Triggered(checkpoint_id, is_aligned):
                self._trigger(checkpoint_id, is_aligned)
                return []
            case Completed(checkpoint_id, is_final):
                self._final = checkpoint_id if is_final else self._final
                return self._complete(checkpoint_id)
            case Aborted(checkpoint_id, reason):
                return self._abort(checkpoint_id, reason)
            case _:
                return self._finish(event)

    # --- a request comes in

    def _ask(self, request: Request) -> list[Action]:
        if request.id in self._waiting:
            raise LocalProtocolError(f"request {request.id} was made twice")
        refusal = self._refusal(request)
        if refusal is not None:
            return [Answer(request.id, refusal)]
        self._waiting[request.id] = _Waiting(request, self._newest)
        match request.kind:
            case "savepoint":
                return [TriggerSavepoint()] if self._is_running and self._ending is None else []
            case "stop":
                return self._stop(request)
            case "cancel":
                self._ending = "cancel"
                return [CancelJob()]

    def _refusal(self, request: Request) -> Result | None:
        if self._end is not None:
            return Result(self._end.state, error=f"the job has ended: it is {self._end.state}")
        if request.kind != "cancel" and self._ending == "cancel":
            return Result("cancelling", error="the job is being cancelled")
        if request.is_drain and self._ending == "stop":
            return Result(
                "finishing",
                error="the job is being stopped already, without a drain",
                hint="wait for its end",
            )
        if request.savepoint and request.savepoint in self._names():
            return Result(
                "running",
                error=f"a savepoint {request.savepoint!r} has been asked for already",
                hint="choose another name",
            )
        return None

    def _names(self) -> Iterator[str | None]:
        return (one.request.savepoint for one in self._waiting.values())

    def _stop(self, request: Request) -> list[Action]:
        if self._ending is not None:
            return []  # It ends already, and this request with it.
        self._ending = "drain" if request.is_drain else "stop"
        if not request.is_drain:
            return [StopJob()]
        return [DrainJob()] if self._is_running else []

    # --- the job goes on

    def _start(self) -> list[Action]:
        self._is_running = True
        self._final = None
        self._pending.clear()
        if self._ending == "drain":
            return [DrainJob()]
        is_wanted = any(one.request.kind == "savepoint" for one in self._waiting.values())
        return [TriggerSavepoint()] if is_wanted and self._ending is None else []

    def _trigger(self, checkpoint_id: CheckpointId, is_aligned: bool) -> None:
        self._newest = max(self._newest, checkpoint_id)
        self._pending.add(checkpoint_id)
        for one in () if is_aligned else list(self._waiting.values()):
            self._waiting[one.request.id] = _Waiting(one.request, checkpoint_id)

    def _complete(self, checkpoint_id: CheckpointId) -> list[Action]:
        self._pending.discard(checkpoint_id)
        done = [
            one
            for one in self._waiting.values()
            if one.request.kind == "savepoint" and one.after < checkpoint_id
        ]
        return [self._export(one.request, checkpoint_id, "running") for one in done]

    def _abort(self, checkpoint_id: CheckpointId, reason: str) -> list[Action]:
        self._pending.discard(checkpoint_id)
        newest = max(self._pending, default=CheckpointId(0))  # which may have overtaken this one
        failed = [
            one.request
            for one in self._waiting.values()
            if one.request.kind == "savepoint" and newest <= one.after < checkpoint_id
        ]
        error = f"checkpoint {checkpoint_id} was given up: {reason}"
        return [self._answer(request, Result("running", error=error)) for request in failed]

    # --- the job ends

    def _finish(self, end: Ended) -> list[Action]:
        self._end = end
        return [self._last_action(one.request, end) for one in list(self._waiting.values())]

    def _last_action(self, request: Request, end: Ended) -> Action:
        if request.kind == "cancel":
            return self._answer(request, self._of_cancel(end))
        if end.state not in _ENDED_WELL:
            return self._answer(request, self._of_failure(end))
        if request.savepoint is None:
            return self._answer(request, Result(end.state))
        assert self._final is not None, "a job ended well without a final checkpoint"
        return self._export(request, self._final, end.state)

    def _of_cancel(self, end: Ended) -> Result:
        if end.state == "cancelled":
            return Result(end.state)
        return Result(end.state, error=f"the job was {end.state} before it was cancelled")

    def _of_failure(self, end: Ended) -> Result:
        if self._final is None:
            return Result(end.state, error=f"the job was {end.state}: {end.message}")
        return Result(
            end.state,
            error=(
                f"checkpoint {self._final} is complete, but not all of its output is committed: "
                f"the job was {end.state}: {end.message}"
            ),
            hint="run the job again on its state directory: it commits that output first",
        )

    def _export(self, request: Request, checkpoint_id: CheckpointId, state: str) -> Export:
        del self._waiting[request.id]
        return Export(request.id, request.savepoint or "", checkpoint_id, state)

    def _answer(self, request: Request, result: Result) -> Answer:
        del self._waiting[request.id]
        return Answer(request.id, result)
