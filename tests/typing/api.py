"""What a type checker knows of a pipeline; checked by mypy, never run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, assert_type

from flowsnap import KeyedProcess, KeyedStream, Pipeline, Stream
from flowsnap.connectors import Collect, TextFiles
from flowsnap.core.operator import OperatorContext
from flowsnap.runtime.status import JobResult


@dataclass
class Payment:
    user: str
    amount: float


class Total(KeyedProcess[Payment, tuple[str, float]]):
    def process(self, value: Payment, context: OperatorContext) -> Iterator[tuple[str, float]]:
        yield context.key, value.amount


def parse(line: str) -> Payment:
    user, amount = line.split(",")
    return Payment(user, float(amount))


def of_user(payment: Payment) -> str:
    return payment.user


def amount(payment: Payment) -> float:
    return payment.amount


def larger(one: Payment, other: Payment) -> Payment:
    return max(one, other, key=amount)


def collected(payments: list[Payment], payment: Payment) -> list[Payment]:
    return [*payments, payment]


def empty() -> list[Payment]:
    return []


def plain_streams(job: Pipeline) -> None:
    assert_type(job.source(TextFiles("*.txt")), Stream[Any])
    lines = assert_type(job.from_iterable(["a b", "c"]), Stream[str])
    assert_type(job.from_iterable(lambda: range(3)), Stream[int])
    assert_type(lines.map(len), Stream[int])
    assert_type(lines.filter(str.isdigit), Stream[str])
    assert_type(lines.flat_map(str.split), Stream[str])
    assert_type(lines.union(lines.map(str.upper)), Stream[str])
    assert_type(lines.rebalance(), Stream[str])
    lines.sink(Collect())


def keys(payments: Stream[Payment]) -> None:
    assert_type(payments.key_by(of_user), KeyedStream[str, Payment])
    assert_type(payments.key_by("user"), KeyedStream[Any, Payment])
    assert_type(payments.key_by(("user", "amount")), KeyedStream[Any, Payment])
    assert_type(payments.map(amount).key_by(), KeyedStream[float, float])


def keyed_streams(keyed: KeyedStream[str, Payment]) -> None:
    assert_type(keyed.count(), Stream[tuple[str, int]])
    assert_type(keyed.sum(amount, emit="final"), Stream[tuple[str, float]])
    assert_type(keyed.min(of_user), Stream[tuple[str, str]])
    assert_type(keyed.max("amount"), Stream[tuple[str, Any]])
    assert_type(keyed.max(), Stream[tuple[str, Payment]])
    assert_type(keyed.reduce(larger, emit="batch"), Stream[Payment])
    assert_type(keyed.fold(empty, collected), Stream[tuple[str, list[Payment]]])
    assert_type(keyed.process(Total), Stream[tuple[str, float]])
    assert_type(keyed.process(Total()), Stream[tuple[str, float]])
    assert_type(keyed.map(amount), Stream[float])


def mistakes(job: Pipeline, keyed: KeyedStream[str, Payment]) -> None:
    job.from_iterable([1]).map(str.upper)  # type: ignore[arg-type]
    job.from_iterable(["a"]).union(job.from_iterable([1]))  # type: ignore[list-item]
    keyed.count(emit="sometimes")  # type: ignore[arg-type]
    keyed.key_by("user")  # type: ignore[attr-defined]


def runs(job: Pipeline) -> None:
    result = job.run(workers=2, state_dir="state", checkpoint_interval="1s", state_memory="1GB")
    assert_type(result, JobResult)
