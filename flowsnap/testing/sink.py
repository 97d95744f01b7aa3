"""A simulated transactional system, and the sink that writes to it.

A transaction is prepared, then committed or aborted; the system outlives every process. A call may
fail before it takes effect or after, and it may take effect long after its caller has given up:
nobody can tell. What was committed is seen at once, and goes away only where its user restores
an older checkpoint: then the sink takes back what came after it, and whoever is left of that
history commits nothing any more.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

from flowsnap.core.element import Batch
from flowsnap.core.ids import AttemptId, CheckpointId
from flowsnap.core.operator import Sink, SinkContext, Submission
from flowsnap.errors import StorageError
from flowsnap.testing.world import Actor, World

State = Literal["prepared", "committed", "aborted", "withdrawn"]
Fault = Literal["refused", "applied"]
"""A call raises: it has done nothing, or all."""
SLOW_US = (0, 0, 0, 4_000, 25_000)
"""How long the system of a world takes for a commit, at most."""


@dataclass(slots=True)
class Transaction:
    """The output of one sink subtask between two checkpoints."""

    id: str
    operator: str
    attempt: int
    records: tuple[Any, ...]
    state: State = "prepared"
    prepared_at_us: int = 0
    checkpoint_id: int = 0


class Ledger(Protocol):
    """Who looks at every transaction; ``newest_attempt`` is durable."""

    newest_attempt: AttemptId

    def committed(self, transaction: Transaction) -> None:
        """It becomes visible."""

    def aborted(self, transaction: Transaction) -> None:
        """It is given up."""

    def goes_back(self, operator: str, after: int) -> bool:
        """Whether a sink leaves a history in which there was output after a checkpoint."""


class TransactionalSystem:
    """All transactions there ever were, by id."""

    def __init__(self, world: World, ledger: Ledger) -> None:
        self.transactions: dict[str, Transaction] = {}
        self.calls = 0
        self.faults: dict[int, Fault] = {}
        self.commits = self.prepares = 0
        self.late_us: dict[int, int] = {}  # commit: how long it is under way
        self.late_prepares_us: dict[int, int] = {}
        self.slow_us = world.sinks.choice(SLOW_US)
        self._ready_us: dict[str, int] = {}  # by transaction
        self._fences: dict[str, list[tuple[int, int]]] = {}  # sink: checkpoint, attempt
        self._world = world
        self._ledger = ledger

    def prepare(self, actor: Actor, transaction: Transaction) -> None:
        """Make a transaction durable, but not visible.

        Raises:
            StorageError: it may or may not be.
        """
        self.prepares += 1
        late_us = self.late_prepares_us.pop(self.prepares, None)
        fault, number = self._begin(actor, "prepare", transaction.id)
        if late_us is None:
            self._enter(transaction)
        else:
            self._world.after(late_us, partial(self._enter_late, transaction))
        self._end(actor, "prepare", fault, number)
        if late_us is not None:
            raise StorageError("the sink has not answered in time to a prepare", is_definite=False)

    def commit(self, actor: Actor, id: str, attempt: int) -> None:
        """Make a transaction visible; a repeat changes nothing.

        Raises:
            StorageError: it may or may not be, or may be later.
        """
        self.commits += 1
        late_us = self.late_us.pop(self.commits, None)
        fault, number = self._begin(actor, "commit", id)
        if self._is_left(id, attempt):
            raise StorageError(f"{id} is of a history that the job has left")
        if late_us is None:
            self._apply(actor.name, id)
        else:
            self._world.after(late_us, partial(self._arrive, id, attempt))
        self._end(actor, "commit", fault, number)
        if late_us is not None:
            raise StorageError("the sink has not answered in time to a commit", is_definite=False)

    def has_had_time(self, id: str) -> bool:
        """Whether a commit can be carried out by now: a slow system wants to be asked again."""
        now_us = self._world.now_us
        if not self.slow_us:
            return True
        if id not in self._ready_us:
            self._ready_us[id] = now_us + self._world.sinks.randint(0, self.slow_us)
        if now_us < self._ready_us[id]:
            self._world.trace.reached("sink: commit that takes its time")
            return False
        return True

    def _enter(self, transaction: Transaction) -> None:
        if transaction.id in self.transactions:
            self._world.fail(f"C4: transaction {transaction.id} was prepared twice")
        self.transactions[transaction.id] = transaction
        transaction.prepared_at_us = self._world.now_us

    def _enter_late(self, transaction: Transaction) -> None:
        """Take a transaction of an attempt that has failed by now."""
        self._world.note("sinks", f"late prepare {transaction.id}")
        self._world.trace.reached("sink: prepare that is applied later")
        self._enter(transaction)

    def _arrive(self, id: str, attempt: int) -> None:
        """Take a commit that nobody waits for any more."""
        self._world.note("sinks", f"late commit {id}")
        if self._is_left(id, attempt):
            return
        transaction = self.transactions.get(id)
        is_done = transaction is not None and transaction.state == "committed"
        how = "late commit finds its work done" if is_done else "commit that is applied later"
        self._world.trace.reached(f"sink: {how}")
        self._apply("a late commit", id)

    def _apply(self, who: str, id: str) -> None:
        transaction = self.transactions.get(id)
        if transaction is None or transaction.state in {"aborted", "withdrawn"}:
            state = "unknown" if transaction is None else transaction.state
            self._world.fail(f"C4: {who} commits {id}, which is {state}")
        elif transaction.state == "prepared":
            transaction.state = "committed"
            self._ledger.committed(transaction)

    def _is_left(self, id: str, attempt: int) -> bool:
        """Whether somebody of a history that was left commits what came after the way back."""
        transaction = self.transactions.get(id)
        return transaction is not None and any(
            attempt <= newest_attempt and transaction.checkpoint_id > after
            for after, newest_attempt in self._fences.get(transaction.operator, ())
        )

    def withdraw(self, actor: Actor, operator: str, after: int) -> None:
        """Take back what was committed after a checkpoint, if the job has gone back to that."""
        number = self._world.begin_effect(actor, f"sink withdraw {operator}")
        if self._ledger.goes_back(operator, after):
            self._fences.setdefault(operator, []).append((after, self._ledger.newest_attempt))
        for transaction in self.transactions.values():
            is_later = transaction.operator == operator and transaction.checkpoint_id > after
            if is_later and transaction.state == "committed":
                self._world.trace.reached("committed output is taken back")
                transaction.state = "withdrawn"
        self._world.end_effect(actor, number)

    def abort_older(self, actor: Actor, operator: str, attempt: int) -> None:
        """Give up what older attempts have prepared and not committed."""
        number = self._world.begin_effect(actor, f"sink abort {operator}")
        for transaction in self.transactions.values():
            is_ours = transaction.operator == operator and transaction.attempt < attempt
            if is_ours and transaction.state == "prepared":
                transaction.state = "aborted"
                self._ledger.aborted(transaction)
        self._world.end_effect(actor, number)

    def visible(self, operator: str) -> Iterable[Any]:
        """Yield what a reader sees of one sink."""
        for transaction in self.transactions.values():
            if transaction.operator == operator and transaction.state == "committed":
                yield from transaction.records

    def _begin(self, actor: Actor, what: str, id: str) -> tuple[Fault | None, int]:
        self.calls += 1
        fault = self.faults.pop(self.calls, None)
        number = self._world.begin_effect(actor, f"sink {what} {id}")
        if fault == "refused":
            self._world.trace.reached(f"sink: {what} refused")
            raise StorageError(f"the sink refuses to {what} {id}")
        return fault, number

    def _end(self, actor: Actor, what: str, fault: Fault | None, number: int) -> None:
        self._world.end_effect(actor, number)
        if fault == "applied":
            self._world.trace.reached(f"sink: {what} of unknown outcome")
            raise StorageError(f"no answer of the sink to a {what}", is_definite=False)


class PreparingSink(Sink):
    """What is written between two barriers becomes one transaction of another system."""

    def open(self, context: SinkContext) -> None:
        self._context = context
        self._written: list[Any] = []

    def write(self, batch: Batch) -> None:
        self._written += batch.values

    def prepare(self, checkpoint_id: CheckpointId) -> dict[str, Any] | None:
        if not self._written:
            return None
        records, self._written = self._written, []
        return self._prepare(checkpoint_id, records)

    def _prepare(self, checkpoint_id: CheckpointId, records: Sequence[Any]) -> dict[str, Any]:
        """Prepare a transaction of these records, and return the committable."""
        id = self._transaction(checkpoint_id)
        self._store(id, records)
        return {"id": id}

    def _transaction(self, checkpoint_id: CheckpointId) -> str:
        place = self._context
        return f"{place.operator}.{place.subtask}@{place.attempt}/{checkpoint_id}"

    @abstractmethod
    def _store(self, id: str, records: Sequence[Any]) -> None:
        """Prepare a transaction: make it durable, but not visible."""


class TransactionalSink(PreparingSink):
    """A sink as its contract wants it: prepares at barriers, commits when told."""

    def __init__(self, system: TransactionalSystem, actor: Actor | None = None) -> None:
        self._system = system
        self._actor = actor

    def of(self, actor: Actor) -> TransactionalSink:
        """Return the template as one process has it."""
        return TransactionalSink(self._system, actor)

    def on_submit(self, submission: Submission) -> None:
        assert self._actor is not None
        self._system.withdraw(self._actor, submission.operator, submission.restored_from or 0)

    def prepare(self, checkpoint_id: CheckpointId) -> dict[str, Any] | None:
        self._checkpoint_id = checkpoint_id
        return super().prepare(checkpoint_id)

    def _store(self, id: str, records: Sequence[Any]) -> None:
        assert self._actor is not None
        place = self._context
        transaction = Transaction(id, place.operator, place.attempt, tuple(records))
        transaction.checkpoint_id = self._checkpoint_id
        self._system.prepare(self._actor, transaction)

    def commit(self, committables: Sequence[dict[str, str]]) -> bool | None:
        if not all([self._system.has_had_time(committable["id"]) for committable in committables]):
            return False
        self._commit(committables)
        return None

    def _commit(self, committables: Sequence[dict[str, str]]) -> None:
        assert self._actor is not None
        for committable in committables:
            self._system.commit(self._actor, committable["id"], self._context.attempt)

    def recover(self, committables: Sequence[dict[str, str]]) -> None:
        assert self._actor is not None
        self._commit(committables)
        self._system.abort_older(self._actor, self._context.operator, self._context.attempt)
