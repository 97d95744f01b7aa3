"""An async function whose answers come when a test says so."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from tests.unit.operators.rig import Rig

PATIENCE_SECONDS = 5


class Gate:
    """Awaits, for each value, the answer that ``answer`` or ``fail`` gives."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self._open: dict[Any, asyncio.Future[Any]] = {}
        self._changed = threading.Condition()

    async def __call__(self, value: Any) -> Any:
        future = asyncio.get_running_loop().create_future()
        with self._changed:
            self.asked.append(value)
            self._open[value] = future
            self._changed.notify_all()
        return await future

    def wait_for(self, *values: Any) -> None:
        """Wait until each value is being asked for."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: all(value in self._open for value in values), PATIENCE_SECONDS
            ), f"{values} were never asked for, only {self.asked}"

    def answer(self, value: Any, result: Any = None) -> None:
        """Answer a value; by default with its double."""
        future = self._taken(value)
        result = 2 * value if result is None else result
        future.get_loop().call_soon_threadsafe(future.set_result, result)

    def fail(self, value: Any, error: Exception) -> None:
        """Have the request for a value raise."""
        future = self._taken(value)
        future.get_loop().call_soon_threadsafe(future.set_exception, error)

    def forget(self) -> None:
        """Forget the requests of an operator that has been closed."""
        with self._changed:
            self._open.clear()

    def _taken(self, value: Any) -> asyncio.Future[Any]:
        self.wait_for(value)
        with self._changed:
            return self._open.pop(value)


def settle(rig: Rig, gate: Gate) -> None:
    """Poll until what has been answered so far has been seen by the task.

    A request asked after the answers comes back last, because the loop is first come, first served.
    """
    loop = rig.operators[0]._requests._loop  # type: ignore[attr-defined]  # of AsyncMap
    seen = threading.Event()

    def three_rounds(left: int = 3) -> None:  # the answer, the task's wake-up, its end
        if left:
            loop.call_soon(three_rounds, left - 1)
        else:
            seen.set()

    loop.call_soon_threadsafe(three_rounds)
    assert seen.wait(PATIENCE_SECONDS)
    rig.poll()


def restarted(rig: Rig, gate: Gate) -> Rig:
    """Return a rig that goes on from a snapshot taken now; the requests of the old one are gone."""
    saved = rig.snapshot()
    rig.chain.close()
    gate.forget()
    again = Rig(*rig.templates, saved=saved, wall_ms=rig.now_ms)
    again.out, again.watermarks = rig.out, rig.watermarks
    return again
