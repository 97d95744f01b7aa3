"""A simulated transactional system, and the sink that writes to it.

A transaction is prepared, then committed or aborted; the system outlives every process. A call may
fail before it takes effect or after: the caller cannot tell. What was committed is seen at once,
and never goes away.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from flowsnap.core.element import Batch
from flowsnap.core.ids import CheckpointId
from flowsnap.core.operator import Sink, SinkContext
from flowsnap.errors import StorageError
from flowsnap.testing.world import Actor, World

State = Literal["prepared", "committed", "aborted"]
Fault = Literal["refused", "applied"]
"""A call raises: it has done nothing, or all."""


@dataclass(slots=True)
class Transaction:
    """The output of one sink subtask between two checkpoints."""

    id: str
    operator: str
    attempt: int
    records: tuple[Any, ...]
    state: State = "prepared"
    prepared_at_us: int = 0


class Ledger(Protocol):
    """Who looks at every transaction."""

    def committed(self, transaction: Transaction) -> None:
        """It becomes visible."""

    def aborted(self, transaction: Transaction) -> None:
        """It is given up."""


class TransactionalSystem:
    """All transactions there ever were, by id."""

    def __init__(self, world: World, ledger: Ledger) -> None:
        self.transactions: dict[str, Transaction] = {}
        self.calls = 0
        self.faults: dict[int, Fault] = {}
        self._world = world
        self._ledger = ledger

    def prepare(self, actor: Actor, transaction: Transaction) -> None:
        """Make a transaction durable, but not visible.

        Raises:
            StorageError: it may or may not be.
        """
        fault, number = self._begin(actor, "prepare", transaction.id)
        if transaction.id in self.transactions:
            self._world.fail(f"C4: transaction {transaction.id} was prepared twice")
        self.transactions[transaction.id] = transaction
        transaction.prepared_at_us = self._world.now_us
        self._end(actor, "prepare", fault, number)

    def commit(self, actor: Actor, id: str) -> None:
        """Make a transaction visible; a repeat changes nothing.

        Raises:
            StorageError: it may or may not be.
        """
        fault, number = self._begin(actor, "commit", id)
        transaction = self.transactions.get(id)
        if transaction is None or transaction.state == "aborted":
            state = "unknown" if transaction is None else "aborted"
            self._world.fail(f"C4: {actor.name} commits {id}, which is {state}")
        elif transaction.state == "prepared":
            transaction.state = "committed"
            self._ledger.committed(transaction)
        self._end(actor, "commit", fault, number)

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

    def _store(self, id: str, records: Sequence[Any]) -> None:
        assert self._actor is not None
        place = self._context
        transaction = Transaction(id, place.operator, place.attempt, tuple(records))
        self._system.prepare(self._actor, transaction)

    def commit(self, committables: Sequence[dict[str, str]]) -> bool | None:
        assert self._actor is not None
        for committable in committables:
            self._system.commit(self._actor, committable["id"])
        return None

    def recover(self, committables: Sequence[dict[str, str]]) -> None:
        assert self._actor is not None
        self.commit(committables)
        self._system.abort_older(self._actor, self._context.operator, self._context.attempt)
