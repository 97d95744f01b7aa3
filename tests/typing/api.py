"""What a type checker knows of a pipeline; checked by mypy, never run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, assert_type

from flowsnap import (
    BroadcastContext,
    BroadcastProcess,
    CoProcess,
    KeyedProcess,
    KeyedStream,
    OutputTag,
    Pattern,
    Pipeline,
    ProcessContext,
    ProcessFunction,
    Skip,
    Stream,
    bounded,
    split,
)
from flowsnap.api.windowed import WindowedStream
from flowsnap.connectors import (
    Change,
    Collect,
    DeadLetter,
    PostgresChanges,
    PostgresTable,
    TextFiles,
)
from flowsnap.core.operator import OperatorContext
from flowsnap.operators.window import Sum, Tumbling, Window, WindowResult
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


LATE: OutputTag[Payment] = OutputTag("late")


class Aside(ProcessFunction[Payment, str]):
    def process(self, value: Payment, context: ProcessContext) -> Iterator[str]:
        context.output(LATE, value)
        yield value.user


class Matched(CoProcess[Payment, str, float]):
    def process_left(self, value: Payment, context: ProcessContext) -> list[float]:
        return [value.amount]

    def process_right(self, value: str, context: ProcessContext) -> None:
        context.register_event_timer(5, value)

    def on_timer(self, timestamp: int, context: ProcessContext) -> list[float]:
        return [float(timestamp)]


class Limited(BroadcastProcess[Payment, int, str]):
    def process(self, value: Payment, context: BroadcastContext) -> list[str]:
        return [value.user] if value.amount > context.broadcast["limit"] else []

    def process_broadcast(self, value: int, context: BroadcastContext) -> None:
        context.broadcast["limit"] = value


def in_time(
    job: Pipeline, payments: Stream[Payment], keyed: KeyedStream[str, Payment], words: Stream[str]
) -> None:
    assert_type(job.source(TextFiles("*"), watermark=bounded("5s", timestamp=1)), Stream[Any])
    assert_type(payments.assign_timestamps("at", "5s"), Stream[Payment])
    assert_type(payments.process(Aside), Stream[str])
    assert_type(payments.process(Aside()).side_output(LATE), Stream[Payment])
    assert_type(split(payments, amount), tuple[Stream[Payment], Stream[Payment]])
    assert_type(payments.connect(words).process(Matched), Stream[float])
    assert_type(keyed.connect(words.key_by()).process(Matched()), Stream[float])
    limits = words.map(len).broadcast()
    assert_type(payments.connect(limits).process(Limited), Stream[str])
    assert_type(keyed.connect(limits).process(Limited), Stream[str])


def sizes(key: str, window: Window, payments: list[Payment]) -> Iterator[tuple[str, int]]:
    yield key, len(payments)


def windows(payments: Stream[Payment], keyed: KeyedStream[str, Payment]) -> None:
    minutes = assert_type(keyed.window(Tumbling("1m")), WindowedStream[str, Payment])
    assert_type(minutes.count(), Stream[WindowResult[str, int]])
    assert_type(minutes.reduce(larger), Stream[WindowResult[str, Payment]])
    assert_type(minutes.aggregate(total=Sum("amount")), Stream[WindowResult[str, Any]])
    assert_type(minutes.process(sizes), Stream[tuple[str, int]])
    assert_type(payments.window_all(Tumbling("1m")), WindowedStream[None, Payment])
    assert_type(WindowResult("ann", 0, 1, 2.5).value, float)


async def scored(payment: Payment) -> float:
    return payment.amount


def running(total: float, payment: Payment) -> tuple[float, str]:
    return total + payment.amount, payment.user


def functions(payments: Stream[Payment], keyed: KeyedStream[str, Payment]) -> None:
    assert_type(payments.async_map(scored, capacity=5, timeout="1s"), Stream[float])
    assert_type(payments.rate_limit(5), Stream[Payment])
    assert_type(payments.deduplicate("user", ttl="1h"), Stream[Payment])
    assert_type(payments.map_batches(lambda batch: [len(batch)]), Stream[int])
    assert_type(keyed.deduplicate(), Stream[Payment])
    assert_type(keyed.stateful_map(running, 0.0), Stream[str])
    assert_type(keyed.top_n(3, by="amount"), Stream[tuple[str, list[Payment]]])
    assert_type(keyed.over({"n": "count"}, rows=3), Stream[tuple[Payment, dict[str, Any]]])
    payments.async_map(parse)  # type: ignore[arg-type]
    payments.async_map(scored, speed=5)  # type: ignore[call-arg]


def of_order(order: int) -> str:
    return str(order)


def paid(payment: Payment, order: int) -> bool:
    return payment.amount == order


def joins(keyed: KeyedStream[str, Payment], orders: Stream[int]) -> None:
    by_order = orders.key_by(of_order)
    close = keyed.interval_join(by_order, lower="-1m", upper="1m")
    assert_type(close.apply(paid), Stream[bool])
    assert_type(close.pairs(), Stream[tuple[Payment, int]])
    assert_type(keyed.join(by_order, how="left").pairs(), Stream[tuple[Payment, int | None]])
    windowed = keyed.join(by_order, how="full", window=Tumbling("1m"))
    assert_type(windowed.pairs(), Stream[tuple[Payment | None, int | None]])
    assert_type(keyed.as_of_join(by_order).pairs(), Stream[tuple[Payment, int]])
    grouped = keyed.co_group(by_order, window=Tumbling("1m"))
    assert_type(grouped.apply(lambda key, lefts, rights: len(lefts)), Stream[int])
    assert_type(keyed.lookup_join(dict.fromkeys).pairs(), Stream[tuple[Payment, Any]])


def spent(match: dict[str, list[Payment]]) -> float:
    return match["much"][0].amount


def patterns(keyed: KeyedStream[str, Payment]) -> None:
    twice = Pattern.begin("much", where=lambda payment: payment.amount > 9).times(2).within("1m")
    found = keyed.pattern(twice, skip=Skip.PAST_LAST, timed_out="once")
    assert_type(found.select(spent), Stream[float])
    assert_type(found.flat_select(lambda match: match["much"]), Stream[Payment])
    keyed.pattern("much")  # type: ignore[arg-type]
    keyed.pattern(twice, skip="past_last")  # type: ignore[arg-type]


def without_raw(letters: Stream[DeadLetter]) -> Stream[str]:
    return letters.map(lambda letter: letter.reason)


def dead_letters(job: Pipeline, payments: Stream[Payment]) -> None:
    payments.sink(Collect(), dead_letters=Collect())
    payments.sink(Collect(), dead_letters=without_raw)
    payments.sink(Collect(), dead_letters=lambda letters: letters.sink(Collect()))
    payments.sink(Collect(), dead_letters="bad")  # type: ignore[arg-type]
    payments.sink(Collect(), dead_letters=parse)  # type: ignore[arg-type]


def tables(job: Pipeline, by_table: dict[str, type]) -> None:
    table = PostgresTable("", "payments", by="id", type=Payment, on_error="dead-letter")
    assert_type(job.source(table), Stream[Any])
    PostgresTable("", "payments", by=["day", "id"], columns=["id"], bounded=True)
    PostgresChanges("", "payments", slot="s", type=Payment, on_error="fail", snapshot=False)
    changes = PostgresChanges("", ["payments", "users"], slot="s", type=by_table)
    assert_type(job.source(changes), Stream[Any])
    assert_type(Change(op="insert", table="payments").after, Any)
    PostgresTable("", "payments", by="id", on_error="ignore")  # type: ignore[arg-type]
    PostgresTable("", "payments", by="id", kind=Payment)  # type: ignore[call-arg]
    PostgresChanges("", "payments", type=Payment)  # type: ignore[call-arg]


def mistakes(job: Pipeline, keyed: KeyedStream[str, Payment]) -> None:
    job.from_iterable([1]).map(str.upper)  # type: ignore[arg-type]
    job.from_iterable(["a"]).union(job.from_iterable([1]))  # type: ignore[list-item]
    keyed.window("1m")  # type: ignore[arg-type]
    keyed.window(Tumbling("1m")).aggregate(n=Sum)  # type: ignore[arg-type]
    keyed.count(emit="sometimes")  # type: ignore[arg-type]
    keyed.key_by("user")  # type: ignore[attr-defined]


def runs(job: Pipeline) -> None:
    result = job.run(workers=2, state_dir="state", checkpoint_interval="1s", state_memory="1GB")
    assert_type(result, JobResult)
