"""Runs one process of a network as an operator behind the head of a loop.

Its task has feedback inputs only, one for each channel of the network that leads to it. So it never
waits for a barrier, and every channel is recorded as Chandy and Lamport have it: from the moment
the process records its state until the barrier comes in the channel.

A record is ``(sender, number, message)``; a channel's messages are numbered from 1. How many the
process has sent and received in each channel is recorded with its state, so that n and m of the
definition are known: the channel holds exactly the messages m + 1 to n.

Source: Chandy and Lamport, "Distributed Snapshots", 1985, sections 2 and 3.1.
"""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Iterator
from typing import Any

from flowsnap.core.element import Batch
from flowsnap.core.operator import Operator, OperatorContext
from flowsnap.errors import ConfigError, LocalProtocolError
from flowsnap.serialize import dump, load
from flowsnap.snapshot.network_history import Event
from flowsnap.snapshot.network_process import Process, state_of

STATE = "process"
"""The name of the operator state: one value, the process's own state with its counts."""

EVENTS = "events"
"""The tag of the side output for the log; those of channels begin with ``CHANNEL``."""

CHANNEL = "to."

_IMMUTABLE = frozenset({int, float, complex, bool, str, bytes, type(None)})


class ProcessOperator(Operator):
    """One process: takes its messages one by one, and numbers what it sends."""

    uses_processing_time = True

    def __init__(
        self,
        name: str,
        template: Process,
        *,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        is_logged: bool,
    ) -> None:
        self.name = name
        self.template = template
        self.inputs = inputs
        self.outputs = outputs
        self.is_logged = is_logged

    def open(self, context: OperatorContext) -> None:
        self._channels = {to: context.side_output(f"{CHANNEL}{to}") for to in self.outputs}
        self._log = context.side_output(EVENTS)
        self._state = context.operator_state(STATE)
        self._emitted: list[Any] = []
        self._sends: list[tuple[str, int, Any]] = []
        self._sent = dict.fromkeys(self.outputs, 0)
        self._received = dict.fromkeys(self.inputs, 0)
        self._events = 0
        self._process = copy.deepcopy(self.template)
        for restored in self._state.get():
            self._restore(restored)
        self._process._port = self

    def process(self, batch: Batch) -> Batch:
        self._start()
        self.cursor = iter(batch.values)
        for sender, number, message in self.cursor:
            self._receive(sender, number)
            self._process.on_message(sender, message)
            self._done("message", sender, number, message)
        return self._output()

    def on_processing_time(self, now_ms: int) -> Iterator[Batch]:
        self._start()
        yield self._output()

    def next_processing_time_ms(self) -> int | None:
        return None if self._events else 0

    def before_barrier(self) -> Iterator[Batch]:
        # A process begins before its first snapshot, and before the first look whether the network
        # is at rest: so what it does at the start cannot be missed by either.
        self._start()
        yield self._output()
        record = {
            "state": state_of(self._process),
            "sent": self._sent,
            "received": self._received,
            "events": self._events,
        }
        self._state.update([record])

    # --- what the process calls ------------------------------------------------------------------

    def send(self, channel: str, message: Any) -> None:
        """Send a message: it leaves when the process has done what it is about to do.

        Raises:
            ConfigError: there is no such channel, or the message cannot be pickled.
        """
        if channel not in self._channels:
            raise ConfigError(f"process {self.name!r} has no channel to {channel!r}").hint(
                f"it has channels to {', '.join(self.outputs) or 'nobody'}; "
                f"network.connect({self.name!r}, {channel!r}) makes one"
            )
        number = self._sent[channel] + 1
        copied = self._copied(message, f"message {number} to {channel!r}")
        self._sent[channel] = number
        self._channels[channel].add((self.name, number, copied))
        if self.is_logged:
            self._sends.append((channel, number, copied))

    def emit(self, value: Any) -> None:
        """Hand a value to the output of the network.

        Raises:
            ConfigError: it cannot be pickled.
        """
        self._emitted.append(self._copied(value, "what it emits"))

    # --- inside ----------------------------------------------------------------------------------

    def _restore(self, record: dict[str, Any]) -> None:
        vars(self._process).update(record["state"])
        # Channels that are new in the drawing begin at 0, those that are gone are forgotten.
        self._sent |= {to: n for to, n in record["sent"].items() if to in self._sent}
        self._received |= {by: m for by, m in record["received"].items() if by in self._received}
        self._events = record["events"]

    def _receive(self, sender: str, number: int) -> None:
        self._received[sender] += 1
        if number != self._received[sender]:
            raise LocalProtocolError(
                f"process {self.name!r} got message {number} of {sender!r} "
                f"where number {self._received[sender]} was due"
            )

    def _start(self) -> None:
        if not self._events:
            self._process.on_start()
            self._done("start")

    def _done(self, kind: str, channel: str = "", number: int = 0, message: Any = None) -> None:
        """Count one event of the process, and log it if that is wanted."""
        self._events += 1
        if not self.is_logged:
            return
        sends, self._sends = tuple(self._sends), []
        state = self._copied(state_of(self._process), "its state")
        at_ns = time.monotonic_ns()
        event = Event(
            self.name, self._events, kind, channel, number, message, sends, state, at_ns=at_ns
        )
        self._log.add(event)

    def _output(self) -> Batch:
        emitted, self._emitted = self._emitted, []
        return Batch(emitted)

    def _copied(self, value: Any, what: str) -> Any:
        """Return a copy of what leaves the process: no memory is shared."""
        if type(value) in _IMMUTABLE:
            return value
        try:
            return load(dump(value))
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise ConfigError(f"process {self.name!r}: {what} cannot be pickled: {error}").hint(
                "send plain values: numbers, strings, tuples, lists, dicts"
            ) from error
