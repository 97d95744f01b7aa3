"""The desk where a running job is asked for something: by this process, or through its mailbox.

A dull driver: when a request is answered is decided by ``core/requests.py``. It belongs to the job
manager and runs on its thread; only ``ask`` and ``result`` may be called from others.
"""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from flowsnap.core import coordinator as checkpoints
from flowsnap.core import job as life
from flowsnap.core import requests
from flowsnap.core.ids import CheckpointId
from flowsnap.core.requests import Request, RequestKind, Requests, Result
from flowsnap.errors import ConfigError, FlowsnapError, StorageError
from flowsnap.storage.object_url import StateDir
from flowsnap.storage.requests import Mailbox

LOG = logging.getLogger("flowsnap")
POLL_MS = 100


class Exporter(Protocol):
    """Who makes savepoints: ``Recovery``."""

    def check_savepoint(self, name: str) -> None:
        """Raise ConfigError where no savepoint of this name can be made."""

    def export(self, checkpoint_id: CheckpointId, name: str) -> StateDir:
        """Make a savepoint of a complete checkpoint."""


@dataclass(frozen=True, slots=True)
class Levers:
    """How a request moves the job: by events for its machine, and for its coordinator."""

    feed: Callable[[life.Event], None]
    coordinate: Callable[[checkpoints.Event], None]


class RequestDesk:
    """Takes requests, and answers each once; ``mailbox`` None: only this process can ask."""

    def __init__(self, exporter: Exporter, mailbox: Mailbox | None, levers: Levers) -> None:
        self._exporter = exporter
        self._mailbox = mailbox
        self._levers = levers
        self._machine = Requests()
        self._asked: deque[Request] = deque()
        self._local: set[str] = set()
        self._results: dict[str, Result] = {}
        self._poll_at_ms = 0
        self._has_ended = False

    # --- from any thread ----------------------------------------------------------------------

    def ask(
        self, kind: RequestKind, *, savepoint: str | None = None, is_drain: bool = False
    ) -> str:
        """Make a request from within this process, and return its id; see ``Request``."""
        request = Request(secrets.token_hex(8), kind, savepoint, is_drain)
        self._asked.append(request)
        return request.id

    def result(self, request_id: str) -> Result | None:
        """Return the answer to a request of this process; None while there is none."""
        return self._results.get(request_id)

    # --- what the job manager tells -----------------------------------------------------------

    def step(self, now_ms: int) -> None:
        """Take what has been asked."""
        while self._asked:
            request = self._asked.popleft()
            self._local.add(request.id)
            self._ask(request)
        if self._mailbox is not None and now_ms >= self._poll_at_ms:
            self._poll_at_ms = now_ms + POLL_MS
            self._read(self._mailbox)

    def tell(self, event: requests.Event) -> None:
        """Take note of what has become of the job or of a checkpoint."""
        self._has_ended = self._has_ended or isinstance(event, requests.Ended)
        for action in self._machine.handle(event):
            LOG.debug("%s: %s", event, action)
            self._carry_out(action)

    def close(self) -> None:
        """Answer everybody: nothing more comes of this job."""
        if not self._has_ended:
            self.tell(requests.Ended("failed", "its job manager has ended"))
        self._poll_at_ms = 0
        self.step(0)

    # --- inside -------------------------------------------------------------------------------

    def _read(self, mailbox: Mailbox) -> None:
        try:
            found = mailbox.take()
        except StorageError as error:
            LOG.warning("requests to the job cannot be read: %s", error)
            return
        for request in found:
            LOG.info("asked for: %s", _described(request))
            self._ask(request)

    def _ask(self, request: Request) -> None:
        try:
            if request.savepoint is not None:
                self._exporter.check_savepoint(request.savepoint)
        except (ConfigError, StorageError) as error:
            self._answer(request.id, _failure("running", error))
            return
        self.tell(requests.Asked(request))

    def _carry_out(self, action: requests.Action) -> None:
        match action:
            case requests.TriggerSavepoint():
                wish = checkpoints.Wish("savepoint")
                self._levers.coordinate(checkpoints.TriggerRequested(wish))
            case requests.StopJob():
                self._levers.feed(life.StopRequested())
            case requests.DrainJob():
                self._levers.coordinate(checkpoints.DrainRequested())
            case requests.CancelJob():
                self._levers.feed(life.CancelRequested())
            case requests.Export():
                self._export(action)
            case requests.Answer(request_id, result):
                self._answer(request_id, result)

    def _export(self, wanted: requests.Export) -> None:
        try:
            path = self._exporter.export(wanted.checkpoint_id, wanted.name)
        except FlowsnapError as error:
            LOG.warning("no savepoint was made of checkpoint %d: %s", wanted.checkpoint_id, error)
            self._answer(wanted.request_id, _failure(wanted.state, error))
            return
        LOG.info("savepoint of checkpoint %d: %s", wanted.checkpoint_id, path)
        self._answer(wanted.request_id, Result(wanted.state, savepoint=str(path)))

    def _answer(self, request_id: str, result: Result) -> None:
        if request_id in self._local:
            self._results[request_id] = result
        elif self._mailbox is not None:
            try:
                self._mailbox.answer(request_id, result)
            except StorageError as error:
                LOG.warning("%s", error)


def _failure(state: str, error: FlowsnapError) -> Result:
    return Result(state, error=str(error), hint="; ".join(getattr(error, "__notes__", ())))


def _described(request: Request) -> str:
    what = "a stop, draining the input" if request.is_drain else f"a {request.kind}"
    if request.savepoint is None or request.kind == "savepoint":
        return f"{what} {request.savepoint or ''}".rstrip()
    return f"{what} with a savepoint {request.savepoint}".rstrip()
