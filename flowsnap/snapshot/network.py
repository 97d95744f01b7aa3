"""Networks of processes that send messages to each other, and snapshots of them.

The model of the literature: processes P, Q, R ... with FIFO channels between them, in any shape. A
network is drawn as a pipeline, so that the engine, its workers, its checkpoints and its recovery
are those of every other job: each process is an operator behind the head of a loop, each channel a
channel of the engine that is fed back. A snapshot may begin at any process, and at several at once;
barriers are the markers. Nothing is ever blocked::

    class Account(Process):
        def __init__(self, balance):
            self.balance = balance

        def on_start(self):
            if self.name == "SF":
                self.balance -= 10
                self.send("NY", 10)

        def on_message(self, channel, amount):
            self.balance += amount

    network = Network("bank")
    network.add("SF", Account(500))
    network.add("NY", Account(500))
    network.connect("SF", "NY")
    with network.start() as run:
        snapshot = run.snapshot(initiators=["SF"])
        total = sum(one["balance"] for one in snapshot.states.values())
        assert total + sum(snapshot.in_transit) == 1_000

Source: Chandy and Lamport, "Distributed Snapshots: Determining Global States of Distributed
Systems", ACM TOCS 3(1), 1985.
"""

from __future__ import annotations

import difflib
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, overload

from flowsnap.api.looped import Loop
from flowsnap.api.pipeline import Pipeline
from flowsnap.api.stream import Stream
from flowsnap.connectors import Collect, Discard
from flowsnap.core.operator import Operator, Sink
from flowsnap.errors import ConfigError
from flowsnap.serialize import dump
from flowsnap.snapshot.invariant import OnViolation
from flowsnap.snapshot.network_history import (
    Event,
    GlobalState,
    as_happened,
    global_states,
    passes_through,
    reordered,
)
from flowsnap.snapshot.network_operator import CHANNEL, EVENTS, ProcessOperator
from flowsnap.snapshot.network_process import Process, state_of
from flowsnap.snapshot.network_run import NetworkRun
from flowsnap.snapshot.network_snapshot import Channel, Condition, NetworkSnapshot
from flowsnap.snapshot.snapshot import Snapshot

__all__ = [
    "Channel",
    "Condition",
    "Event",
    "GlobalState",
    "Network",
    "NetworkRun",
    "NetworkSnapshot",
    "Process",
    "as_happened",
    "global_states",
    "passes_through",
    "reordered",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,47}")
_RESERVED = frozenset({"output", "log"})

Check = Callable[[NetworkSnapshot], object]
"""What must hold of every snapshot: answers something false, or a text, or raises if it does not.
"""


class Network:
    """Processes and the channels between them; ``start`` it, or run its ``pipeline``.

    ``name`` is the name of the job. ``output``: where what processes emit goes; without one it is
    ``NetworkRun.emitted``. ``log``: keep every event, as ``NetworkRun.events``.

    Raises:
        ConfigError: ``output`` is no sink, or the name is malformed.
    """

    def __init__(self, name: str, *, output: Sink | None = None, log: bool = False) -> None:
        if output is not None and not isinstance(output, Sink):
            raise ConfigError(f"network {name!r}: {output!r} is not a sink")
        self.name = Pipeline(name).name
        self._output = output
        self._is_logged = log
        self._processes: dict[str, Process] = {}
        self._channels: dict[tuple[str, str], None] = {}
        self._invariants: list[tuple[Check, OnViolation]] = []

    def add(self, name: str, process: Process) -> None:
        """Add a process.

        Raises:
            ConfigError: the name is malformed or taken, it is no process, or an attribute of it
                cannot be pickled.
        """
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _RESERVED:
            raise ConfigError(f"{name!r} is not a name for a process").hint(
                "1 to 48 letters, digits, '.', '_' or '-', the first a letter or digit, "
                "and neither 'output' nor 'log'"
            )
        if name in self._processes:
            raise ConfigError(f"network {self.name!r} has two processes named {name!r}")
        if not isinstance(process, Process):
            raise ConfigError(f"process {name!r}: {process!r} is not a Process").hint(
                "subclass Process, and add an instance"
            )
        _check_state(name, process)
        self._processes[name] = process

    def connect(self, source: str, target: str, *, one_way: bool = False) -> None:
        """Connect two processes by FIFO channels both ways, or by one to ``target``.

        A process may have a channel to itself.

        Raises:
            ConfigError: there is no such process, or they are connected already.
        """
        pairs = dict.fromkeys(
            [(source, target)] if one_way else [(source, target), (target, source)]
        )
        for name in (source, target):
            if name not in self._processes:
                raise self._unknown(name)
        for pair in pairs:
            if pair in self._channels:
                raise ConfigError(f"there is a channel {pair[0]} to {pair[1]} already")
        self._channels |= pairs

    @overload
    def invariant(self, check: Check, *, on_violation: OnViolation = "alert") -> Check: ...
    @overload
    def invariant(self, *, on_violation: OnViolation = "alert") -> Callable[[Check], Check]: ...
    def invariant(self, check: Check | None = None, *, on_violation: OnViolation = "alert") -> Any:
        """Have a function of the snapshot look at every one; see ``Pipeline.invariant``."""

        def add(function: Check) -> Check:
            self._invariants.append((function, on_violation))
            return function

        return add if check is None else add(check)

    def pipeline(self) -> Pipeline:
        """Return the network as a pipeline, of which ``flowsnap run`` makes a job.

        Raises:
            ConfigError: the network has no processes, or an invariant is no function.
        """
        return self._drawn(self._output or Discard(), Discard() if self._is_logged else None)

    def start(
        self, *, workers: int = 0, state_dir: str | Path | None = None, **settings: Any
    ) -> NetworkRun:
        """Start the network, and return it as it runs.

        ``workers=0`` runs it in this process, in a thread; N starts N processes. Without
        ``state_dir`` its snapshots end with the run; with one it goes on where it had ended.
        ``settings`` are those of ``Pipeline.start``.

        Raises:
            ConfigError: a setting or the network is wrong; nothing has run.
            RestoreError: the checkpoint to begin with is missing, damaged or does not fit.
        """
        emitted = Collect() if self._output is None else None
        log = Collect() if self._is_logged else None
        pipeline = self._drawn(self._output or emitted or Discard(), log)
        scratch = None
        if state_dir is None:
            scratch = TemporaryDirectory(prefix="flowsnap-network-")
            state_dir = scratch.name
        directory = Path(state_dir)
        try:
            handle = pipeline.start(workers=workers, state_dir=directory, **settings)
        except BaseException:
            if scratch is not None:
                scratch.cleanup()
            raise
        outputs = (emitted, log)
        return NetworkRun(handle, directory / self.name, outputs=outputs, scratch=scratch)

    # --- drawing ---------------------------------------------------------------------------------

    def _drawn(self, output: Sink, log: Sink | None) -> Pipeline:
        if not self._processes:
            raise ConfigError(f"network {self.name!r} has no processes").hint(
                'add them: network.add("P", ...)'
            )
        pipeline = Pipeline(self.name)
        heads: dict[str, Loop[Any]] = {}
        steps: dict[str, Stream[Any]] = {}
        for name in self._processes:
            heads[name] = pipeline.loop(name, parallelism=1)
            steps[name] = _step(heads[name], self._operator(name))
        for name, head in heads.items():
            sources = [source for source, target in self._channels if target == name]
            # Whoever hears from nobody is fed by itself, with nothing: so it is a loop as well.
            tag = f"{CHANNEL}{name}"
            head.feed(*(steps[source].side_output(tag) for source in sources or [name]))
        first, *others = steps.values()
        first.union(*others).sink(output, name="output", parallelism=1)
        if log is not None:
            first, *others = (step.side_output(EVENTS) for step in steps.values())
            first.union(*others).sink(log, name="log", parallelism=1)
        for check, on_violation in self._invariants:
            pipeline.invariant(_on_network(check), on_violation=on_violation, name=_title(check))
        return pipeline

    def _operator(self, name: str) -> ProcessOperator:
        return ProcessOperator(
            name,
            self._processes[name],
            inputs=tuple(source for source, target in self._channels if target == name),
            outputs=tuple(target for source, target in self._channels if source == name),
            is_logged=self._is_logged,
        )

    def _unknown(self, name: str) -> ConfigError:
        error = ConfigError(f"network {self.name!r} has no process {name!r}")
        near = difflib.get_close_matches(str(name), self._processes, n=1)
        known = ", ".join(self._processes)
        return error.hint(f"did you mean {near[0]!r}?" if near else f"it has {known or 'none'}")


def _step(head: Loop[Any], code: Operator) -> Stream[Any]:
    return head._then(code, f"{head._step.name}.process", 1)


def _check_state(name: str, process: Process) -> None:
    for attribute, value in state_of(process).items():
        try:
            dump(value)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            refusal = ConfigError(f"process {name!r}: {attribute!r} cannot be pickled: {error}")
            advice = "public attributes are state; what is not state has a name that begins with _"
            raise refusal.hint(advice) from error


def _on_network(check: Check) -> Callable[[Snapshot], object]:
    def check_snapshot(snapshot: Snapshot) -> object:
        return check(NetworkSnapshot.of(snapshot))

    return check_snapshot if callable(check) else check


def _title(check: object) -> str:
    return getattr(check, "__name__", repr(check))
