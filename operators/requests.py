"""The requests of one task, in an asyncio loop in a thread of its own.

The task's thread hands requests over and takes done ones back; two deques, whose appends and pops
are atomic, are all that both touch. Everything else belongs to the loop's thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowsnap.operators.async_map import Request, Settings

CLOSE_SECONDS = 2.0
"""How long ``close`` waits for requests to take note that they have been cancelled."""


class Requests:
    """Runs ``fn`` for up to ``capacity`` requests at a time."""

    def __init__(
        self, fn: Callable[[Any], Awaitable[Any]], capacity: int, settings: Settings, name: str
    ) -> None:
        self._fn = fn
        self._settings = settings
        self._capacity = capacity
        self._waiting: deque[Request] = deque()
        self._done: deque[Request] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_ready = threading.Event()
        # A daemon, so that a request that ignores its cancellation cannot keep the process.
        self._thread = threading.Thread(
            target=self._run, name=f"flowsnap-async-{name}", daemon=True
        )
        self._thread.start()
        self._is_ready.wait()

    def issue(self, requests: Iterable[Request]) -> None:
        """Have requests sent in their order, as soon as there is room."""
        self._waiting.extend(requests)
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._fill)

    def take_done(self) -> list[Request]:
        """Return the requests that have been answered or given up since the last call.

        Raises:
            RuntimeError: the thread has ended, because a request ended it.
        """
        done = [self._done.popleft() for _ in range(len(self._done))]
        for request in done:
            request.is_done = True
        if not done and not self._thread.is_alive():
            raise RuntimeError("a request has ended the thread of all requests")
        return done

    def close(self) -> None:
        """Cancel everything and end the thread; after two seconds it is left to itself."""
        if self._loop is None or not self._thread.is_alive():
            return
        self._waiting.clear()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._is_ready.set()
        await self._stop.wait()

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._capacity:
            task = asyncio.ensure_future(self._answer(self._waiting.popleft()))
            self._running.add(task)
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not self._stop.is_set():
            self._fill()

    async def _answer(self, request: Request) -> None:
        settings = self._settings
        for attempt in range(settings.retries + 1):
            if attempt:
                request.retries += 1
                await asyncio.sleep(settings.backoff_ms * 2 ** (attempt - 1) / 1000)
            try:
                request.result = await self._once(request)
                request.error = None
                break
            except asyncio.CancelledError:
                if self._stop.is_set():
                    raise
                request.error = RuntimeError("the request has been cancelled")
            except Exception as error:  # What the user's code raises is anybody's guess.
                request.error = error
        self._done.append(request)

    async def _once(self, request: Request) -> Any:
        timeout_ms = self._settings.timeout_ms
        clock = asyncio.timeout(timeout_ms / 1000)
        try:
            async with clock:
                return await self._fn(request.value)
        except TimeoutError as error:
            if clock.expired():
                request.timeouts += 1
                raise TimeoutError(f"no answer within {timeout_ms} ms") from error
            raise
