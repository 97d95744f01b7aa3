"""Bank accounts in San Francisco and New York: no snapshot ever shows a dollar too few or too many.

The two branches transfer money to each other all the time. Whoever adds up the balances without
stopping them misses what is on its way, or counts it twice; a snapshot has it in the channels, so
that balances and money in transit are always the total. ``python -m flowsnap.examples.bank`` takes
snapshots and adds up.
"""

from __future__ import annotations

from typing import Any

from flowsnap import Pipeline
from flowsnap.connectors import JsonLinesFiles
from flowsnap.core.operator import Sink
from flowsnap.snapshot.network import Network, NetworkSnapshot, Process

OPENING = {"SF": 500, "NY": 500}
NEXT = "next transfer"


class Account(Process):
    """An account that makes ``transfers``, of amounts that depend on its seed, as it can pay."""

    def __init__(self, balance: int, transfers: int, seed: int) -> None:
        self.balance = balance
        self.transfers = transfers
        self.seed = seed

    def on_start(self) -> None:
        self.send(self.name, NEXT)

    def on_message(self, channel: str, message: Any) -> None:
        if channel != self.name:
            self.balance += message
            return
        if self.transfers == 0:
            self.emit({"account": self.name, "made": "all its transfers"})
            return
        self.transfers -= 1
        self.seed = self.seed * 1_103_515_245 % 2**31 + 12_345
        amount = min(self.seed // 2**16 % 100, self.balance)
        self.balance -= amount
        (other,) = set(self.outputs) - {self.name}
        self.send(other, amount)
        self.send(self.name, NEXT)


def network(transfers: int = 20_000, output: Sink | None = None) -> Network:
    """Return the two accounts, each of which makes ``transfers``."""
    made = Network("bank", output=output)
    for seed, (name, balance) in enumerate(OPENING.items(), start=1):
        made.add(name, Account(balance, transfers, seed))
        made.connect(name, name)
    made.connect("SF", "NY")

    @made.invariant(on_violation="fail")
    def no_money_is_lost(snapshot: NetworkSnapshot) -> bool:
        return total(snapshot) == sum(OPENING.values())

    return made


def in_transit(snapshot: NetworkSnapshot) -> int:
    """Return how much money is on its way."""
    return sum(message for message in snapshot.in_transit if message != NEXT)


def total(snapshot: NetworkSnapshot) -> int:
    """Return all the money there is."""
    balances = sum(int(one["balance"]) for one in snapshot.states.values())
    return balances + in_transit(snapshot)


def pipeline(transfers: int = 20_000, output: str = "bank-out") -> Pipeline:
    """Return the network as a pipeline."""
    return network(transfers, JsonLinesFiles(output, existing="replace")).pipeline()


def main() -> None:
    """Take snapshots, begun by one branch, by the other, and by both at once."""
    print("snapshot      SF      NY  in transit   total")
    with network().start() as run:
        for number in range(8):
            _show(run.snapshot(initiators=[["SF"], ["NY"], ["SF", "NY"]][number % 3]))
        _show(run.wait())


def _show(snapshot: NetworkSnapshot) -> None:
    balances = "".join(f"{snapshot.states[name]['balance']:8,}" for name in OPENING)
    moving, all_of_it = in_transit(snapshot), total(snapshot)
    print(f"{snapshot.checkpoint_id:8}{balances}{moving:12,}{all_of_it:8,}")


if __name__ == "__main__":
    main()
