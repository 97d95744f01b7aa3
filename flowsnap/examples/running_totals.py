"""Running totals: the balance of every account after each payment, with state of one's own.

``python -m flowsnap.examples.running_totals`` makes 100,000 payments, or as many as the first
argument says, and writes JSON lines into ``out``, or the second argument.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from flowsnap import KeyedProcess, Pipeline
from flowsnap.connectors import Generator, JsonLinesFiles
from flowsnap.core.operator import OperatorContext

Payment = dict[str, Any]

ACCOUNTS = 1_000
SHOPS = ("bakery", "books", "market", "station")


def payment(number: int) -> Payment:
    """Return payment ``number``: the same one each time, as a source that is read again must."""
    mixed = number * 2_654_435_761 % 2**32
    return {
        "account": f"account-{mixed % ACCOUNTS}",
        "shop": SHOPS[mixed // ACCOUNTS % len(SHOPS)],
        "amount": mixed % 9_973 - 2_000,
    }


class RunningTotal(KeyedProcess[Payment, dict[str, Any]]):
    """Adds up the payments of an account: all of them, and those in each shop."""

    def open(self, context: OperatorContext) -> None:
        self.balance = context.value_state("balance", default=0)
        self.spent = context.map_state("spent")

    def process(self, value: Payment, context: OperatorContext) -> Iterator[dict[str, Any]]:
        balance = self.balance.value() + value["amount"]
        self.balance.update(balance)
        spent = self.spent.get(value["shop"], 0) + value["amount"]
        self.spent.put(value["shop"], spent)
        yield {
            "account": context.key,
            "balance": balance,
            "shop": value["shop"],
            "spent": spent,
        }


def pipeline(count: int = 100_000, output: str = "out") -> Pipeline:
    """Return the pipeline."""
    job = Pipeline("running_totals")
    (
        job.source(Generator(payment, count), name="payments")
        .key_by("account", name="by_account")
        .process(RunningTotal, name="totals")
        .sink(JsonLinesFiles(output, existing="replace"), name="output")
    )
    return job


if __name__ == "__main__":
    arguments = sys.argv[1:]
    pipeline(int(arguments[0]) if arguments else 100_000, *arguments[1:]).run()
