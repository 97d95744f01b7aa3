from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from flowsnap.connectors import END, FromGenerator, FromQueue
from flowsnap.connectors.python_sources import Pump
from flowsnap.core.operator import Source, SplitReader
from flowsnap.errors import ConfigError
from flowsnap.serialize import dump, load
from tests.ends import await_values

PATIENCE_S = 20


def opened(source: Source, position: int | None = None) -> SplitReader:
    (split,) = source.splits(4)
    return source.open_split(split, position)


def numbers() -> Iterator[int]:
    yield from range(10)


async def async_numbers() -> AsyncIterator[int]:
    for number in range(10):
        await asyncio.to_thread(int)
        yield number


class Blocked:
    """A generator that waits after its first values, and tells when it is closed."""

    def __init__(self) -> None:
        self.go, self.closed = threading.Event(), threading.Event()

    def __call__(self) -> Iterator[int]:
        try:
            yield 1
            assert self.go.wait(PATIENCE_S)
            yield 2
        finally:
            self.closed.set()


# --- generators -------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [numbers, async_numbers, lambda: [*range(10)]])
@pytest.mark.parametrize("buffer", [1, 1000])
def test_values_come_in_order_up_to_the_end(values: Callable[[], Any], buffer: int) -> None:
    with closing(opened(FromGenerator(values, buffer=buffer))) as reader:
        assert await_values(reader) == list(range(10))
        assert (reader.position(), reader.read(3)) == (10, None)


def test_reader_does_not_wait_for_a_generator_that_does() -> None:
    values = Blocked()
    with closing(opened(FromGenerator(values))) as reader:
        assert await_values(reader, 1) == [1]
        batch = reader.read(3)
        assert batch is not None
        assert batch.values == []
        values.go.set()

        assert await_values(reader) == [2]


@pytest.mark.parametrize("position", range(11))
def test_with_replay_it_goes_on_behind_the_position(position: int) -> None:
    source = FromGenerator(numbers, replay=lambda count: iter(range(count, 10)))

    with closing(opened(source, position)) as reader:
        assert reader.position() == position
        assert await_values(reader) == list(range(position, 10))


def test_without_replay_it_begins_anew_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with closing(opened(FromGenerator(numbers), 4)) as reader:
        assert await_values(reader) == list(range(10))

        assert reader.position() == 14
    assert "what it gave after its first 4 values is lost" in caplog.text


def test_what_the_generator_raises_comes_behind_the_values_before_it() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError("mine")

    with closing(opened(FromGenerator(failing))) as reader:
        assert await_values(reader, 1) == [1]
        with pytest.raises(ZeroDivisionError, match="mine"):
            await_values(reader)


def test_closing_ends_a_generator_that_waits_for_room() -> None:
    values = Blocked()
    values.go.set()
    reader = opened(FromGenerator(values, buffer=1))

    reader.close()

    assert values.closed.wait(PATIENCE_S)


def test_closing_ends_an_async_generator_that_waits_for_ever() -> None:
    closed = threading.Event()

    async def waiting() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            closed.set()

    reader = opened(FromGenerator(waiting))
    assert await_values(reader, 1) == [1]
    reader.close()

    assert closed.wait(PATIENCE_S)
    assert [one for one in threading.enumerate() if one.name == "flowsnap-pump"] == []


def test_pump_that_is_closed_takes_no_more() -> None:
    pump = Pump(lambda pump: None, 1)
    pump.close()

    assert pump.put(1) is False
    assert pump.take(1) is None


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"values": numbers()}, "values: .* is not a function"),
        ({"values": numbers, "replay": 3}, "replay: 3 is not a function"),
        ({"values": numbers, "buffer": 0}, "buffer: 0"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        FromGenerator(**settings)


# --- queues -----------------------------------------------------------------------------------


def test_queue_is_read_up_to_its_end_also_from_a_copy_of_the_source() -> None:
    values: queue.Queue[Any] = queue.Queue()
    source = FromQueue(values)
    with closing(opened(load(dump(source)), 5)) as reader:
        first = reader.read(3)
        assert first is not None
        assert first.values == []
        for value in (1, 2, 3, 4, END):
            values.put(value)

        assert await_values(reader) == [1, 2, 3, 4]
        assert (reader.position(), reader.read(3)) == (9, None)


def test_queue_of_an_event_loop_is_read_by_the_loop() -> None:
    async def main() -> list[Any]:
        values: asyncio.Queue[Any] = asyncio.Queue(maxsize=2)
        with closing(opened(FromQueue(values))) as reader:
            reading = asyncio.create_task(asyncio.to_thread(await_values, reader))
            for value in (*range(20), END):
                await values.put(value)
            return await reading

    assert asyncio.run(main()) == list(range(20))


@pytest.mark.parametrize("is_async", [False, True])
def test_end_of_a_queue_holds_for_the_attempts_that_come_after_it(is_async: bool) -> None:
    async def main() -> list[Any]:
        values: Any = asyncio.Queue() if is_async else queue.Queue()
        source = FromQueue(values)
        values.put_nowait(END)
        found = []
        for position in (None, 0):
            with closing(opened(load(dump(source)), position)) as reader:
                found.append(await asyncio.to_thread(await_values, reader))
        return found

    assert asyncio.run(main()) == [[], []]


def test_queue_stays_in_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dump(FromQueue(queue.Queue()))
    monkeypatch.setattr("flowsnap.connectors.in_process._HERE", {})

    with pytest.raises(ConfigError, match="stays in the process that made it"):
        load(data)


def test_what_is_no_queue_or_of_no_loop_is_refused() -> None:
    with pytest.raises(ConfigError, match="is no queue"):
        FromQueue([1, 2])  # type: ignore[arg-type]  # the point
    with pytest.raises(ConfigError, match="belongs to an event loop, and none is running"):
        FromQueue(asyncio.Queue())
