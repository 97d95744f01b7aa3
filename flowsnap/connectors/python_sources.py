"""FromGenerator and FromQueue: what Python code of your own gives, also if it waits for it.

A source may not wait, so a thread of its own runs the code and fills a buffer, from which the
reader takes what is there. The thread of a generator that is called ``async`` runs an event loop.

Such a source cannot be read again: what was taken since the last checkpoint is lost with a crash,
and what the generator gives anew comes after it, at most once. With ``replay`` a generator is told
how many values a checkpoint holds, and gives those that follow: then it is exactly-once.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable
from contextlib import suppress
from typing import Any, Final

from flowsnap.connectors.in_process import InProcess
from flowsnap.core.element import Batch
from flowsnap.core.operator import Source, Split, SplitReader
from flowsnap.errors import ConfigError

LOG = logging.getLogger("flowsnap.python")

Values = Iterable[Any] | AsyncIterable[Any]
CLOSE_S = 2.0
"""How long the end of a source waits for its thread; one that is stuck is left behind."""


class _End:
    def __repr__(self) -> str:
        return "END"

    def __reduce__(self) -> str:
        return "END"


END: Final = _End()
"""What is put into a queue to say that nothing follows."""


class FromGenerator(Source):
    """The values of a generator, plain or async, or of any iterator that a function returns.

    ``values`` is called in a thread of the one task that reads. ``replay(n)``, if it is given, is
    called in its place where a checkpoint is restored, and gives the values after the first n; with
    it the source is exactly-once, and at-most-once without. ``bounded``: whether it ends by
    itself. ``buffer`` is how many values are taken ahead.

    Raises:
        ConfigError: a setting is wrong.
    """

    discovers = False

    def __init__(
        self,
        values: Callable[[], Values],
        *,
        replay: Callable[[int], Values] | None = None,
        bounded: bool = True,
        buffer: int = 1_000,
    ) -> None:
        for what, function in (("values", values), ("replay", replay)):
            if function is not None and not callable(function):
                raise ConfigError(f"{what}: {function!r} is not a function").hint(
                    "give a generator function itself, without calling it"
                )
        self._held = InProcess((values, replay), "generator")
        self.bounded = bounded
        self.buffer = checked_buffer(buffer)

    def splits(self, parallelism: int) -> list[Split]:
        return [Split("all")]

    def open_split(self, split: Split, position: int | None) -> SplitReader:
        """Return a reader; its position is the number of values that were read."""
        values, replay = self._held.value
        if position and replay is None:
            LOG.warning(
                "a generator without replay= is called anew: what it gave after its first %d values"
                " is lost",
                position,
            )

        def begin() -> Values:
            begun: Values = replay(position) if position and replay is not None else values()
            return begun

        return PumpReader(Pump(lambda pump: drain(begin(), pump), self.buffer), position or 0)


class FromQueue(Source):
    """What other code of this process puts into a queue: at most once.

    ``values`` is a ``queue.Queue`` or an ``asyncio.Queue``, the latter of the running event loop or
    of ``loop``. It ends with END. The job must run in this process (``workers=0``).

    Raises:
        ConfigError: it is no queue, or no event loop is known.
    """

    discovers = False

    def __init__(
        self,
        values: queue.Queue[Any] | asyncio.Queue[Any],
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        bounded: bool = False,
    ) -> None:
        if not isinstance(values, queue.Queue | asyncio.Queue):
            raise ConfigError(f"{values!r} is no queue").hint(
                "give a queue.Queue or an asyncio.Queue"
            )
        if isinstance(values, asyncio.Queue) and loop is None:
            loop = _running_loop()
        self.bounded = bounded
        # END is taken once, and holds for every attempt: one that comes after it finds no other.
        self._held = InProcess((values, loop, threading.Event()), "queue")

    def splits(self, parallelism: int) -> list[Split]:
        return [Split("all")]

    def open_split(self, split: Split, position: int | None) -> SplitReader:
        """Return a reader; its position is the number of values that were read."""
        values, loop, has_ended = self._held.value
        if loop is None:
            return QueueReader(values, position or 0, has_ended)
        return AsyncQueueReader(values, loop, position or 0, has_ended)


class Pump:
    """Fills a buffer of ``size`` values from a thread, which runs ``fill``, until it is closed.

    ``fill`` calls ``put``; ``take`` and ``close`` are for whoever reads.
    """

    def __init__(self, fill: Callable[[Pump], None], size: int) -> None:
        self._fill = fill
        self._size = size
        self._values: deque[Any] = deque()
        self._changed = threading.Condition()
        self.is_closed = self._is_done = False
        self._error: BaseException | None = None
        self.interrupt: Callable[[], object] = _nothing
        """What has the thread return where it waits for a value; set by ``fill``."""
        # A daemon: code that waits for ever must not keep the process from its end.
        self._thread = threading.Thread(target=self._run, name="flowsnap-pump", daemon=True)
        self._thread.start()

    def take(self, limit: int) -> list[Any] | None:
        """Return up to ``limit`` values; None: there will be no more.

        Raises what ``fill`` has raised, behind the values before it.
        """
        with self._changed:
            if not self._values:
                if self._error is not None:
                    raise self._error
                return None if self._is_done else []
            values = [self._values.popleft() for _ in range(min(limit, len(self._values)))]
            self._changed.notify_all()
        return values

    def close(self) -> None:
        """Have the thread end at its next value."""
        with self._changed:
            self.is_closed = True
            self._values.clear()
            self._changed.notify_all()
        self.interrupt()
        self._thread.join(CLOSE_S)

    @property
    def is_full(self) -> bool:
        """Whether ``put`` would wait."""
        return len(self._values) >= self._size

    def put(self, value: Any) -> bool:
        """Take a value from the thread, as soon as there is room; False: no more is wanted."""
        with self._changed:
            while self.is_full and not self.is_closed:
                self._changed.wait()
            if not self.is_closed:
                self._values.append(value)
            return not self.is_closed

    def _run(self) -> None:
        try:
            self._fill(self)
        except BaseException as error:  # The user's code: it is raised again where it is read.
            self._error = error
        with self._changed:
            self._is_done = True


class PumpReader(SplitReader):
    """Reads what a pump has; a position is the number of values that were read."""

    def __init__(self, pump: Pump, position: int) -> None:
        self._pump = pump
        self._next = position

    def read(self, limit: int) -> Batch | None:
        values = self._pump.take(limit)
        if values is None:
            return None
        self._next += len(values)
        return Batch(values)

    def position(self) -> int:
        return self._next

    def wait_ms(self) -> int:
        return 5

    def close(self) -> None:
        self._pump.close()


class QueueReader(SplitReader):
    """Reads a queue, from any thread; a position is the number of values that were read."""

    def __init__(self, values: queue.Queue[Any], position: int, has_ended: threading.Event) -> None:
        self._values = values
        self._next = position
        self._has_ended = has_ended
        self._is_done = False

    def read(self, limit: int) -> Batch | None:
        found: list[Any] = []
        while len(found) < limit and not self._is_done:
            try:
                value = self._values.get_nowait()
            except queue.Empty:
                self._is_done = self._has_ended.is_set()
                break
            if value is END:
                self._has_ended.set()
                self._is_done = True
            else:
                found.append(value)
        if not found and self._is_done:
            return None
        self._next += len(found)
        return Batch(found)

    def position(self) -> int:
        return self._next

    def wait_ms(self) -> int:
        return 5


class AsyncQueueReader(SplitReader):
    """Reads a queue of an event loop, which takes the values out itself, in its own thread."""

    def __init__(
        self,
        values: asyncio.Queue[Any],
        loop: asyncio.AbstractEventLoop,
        position: int,
        has_ended: threading.Event,
    ) -> None:
        self._values = values
        self._loop = loop
        self._has_ended = has_ended
        self._next = position
        self._found: deque[Any] = deque()
        self._is_asked = False
        self._is_done = False

    def read(self, limit: int) -> Batch | None:
        """Return what the loop has taken out, and ask it for more.

        Raises:
            RuntimeError: the event loop has been closed before the queue's END.
        """
        found = [self._found.popleft() for _ in range(min(limit, len(self._found)))]
        if found and found[-1] is END:
            self._is_done = True
            found.pop()
        if not found and self._is_done:
            return None
        if not (self._found or self._is_asked or self._is_done):
            self._is_asked = True
            self._loop.call_soon_threadsafe(self._take, limit)
        self._next += len(found)
        return Batch(found)

    def position(self) -> int:
        return self._next

    def wait_ms(self) -> int:
        return 2

    def _take(self, limit: int) -> None:
        """Take out what is there, up to its end; called in the loop."""
        for _ in range(limit):
            try:
                value = self._values.get_nowait()
            except asyncio.QueueEmpty:
                if not self._has_ended.is_set():
                    break
                value = END
            self._found.append(value)
            if value is END:
                self._has_ended.set()
                break
        self._is_asked = False


def drain(values: Values, pump: Pump) -> None:
    """Put all values, of an async iterator in an event loop of this thread."""
    if isinstance(values, AsyncIterable):
        asyncio.run(_drain_async(values, pump))
        return
    for value in values:
        if not pump.put(value):
            break
    close = getattr(values, "close", None)
    if close is not None:  # A generator: what it holds is released here, in its own thread.
        close()


async def _drain_async(values: AsyncIterable[Any], pump: Pump) -> None:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None, "this is a coroutine of asyncio.run"

    def interrupt() -> None:
        with suppress(RuntimeError):  # The loop may have come to its end.
            loop.call_soon_threadsafe(task.cancel)

    pump.interrupt = interrupt
    if pump.is_closed:
        return
    iterator = aiter(values)
    try:
        async for value in iterator:
            # In another thread: a full buffer must not hold up the other tasks of the loop.
            if not (await asyncio.to_thread(pump.put, value) if pump.is_full else pump.put(value)):
                break
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()


def _nothing() -> None:
    """Interrupt nothing: a thread that runs plain code cannot be."""


def checked_buffer(buffer: object) -> int:
    """Return how many values are taken ahead.

    Raises:
        ConfigError: it is no positive int.
    """
    if not isinstance(buffer, int) or isinstance(buffer, bool) or buffer < 1:
        raise ConfigError(f"buffer: {buffer!r} is not a positive int")
    return buffer


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError as error:
        raise ConfigError("an asyncio.Queue belongs to an event loop, and none is running").hint(
            "make the source in a coroutine, or give loop="
        ) from error
