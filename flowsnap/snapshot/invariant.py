"""What must hold of every snapshot of a job, checked by functions of the user.

An invariant is a function of the snapshot. It is violated if it returns something false, or a text
that says why, or raises: so ``assert`` will do. None says that it holds.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

from flowsnap.errors import ConfigError
from flowsnap.snapshot.snapshot import Snapshot

OnViolation = Literal["alert", "fail"]
"""Tell somebody and go on, or fail the job before the checkpoint is committed."""


@dataclass(frozen=True, slots=True)
class Invariant:
    """A function that is given every snapshot of a job, and what follows if it does not hold.

    Raises:
        ConfigError: it is no function, or ``on_violation`` is neither "alert" nor "fail".
    """

    check: Callable[[Snapshot], object]
    name: str = ""
    on_violation: OnViolation = "alert"

    def __post_init__(self) -> None:
        if not callable(self.check):
            raise ConfigError(f"invariant {self.check!r} is no function").hint(
                "write a function of the snapshot that returns False, a text, or raises"
            )
        if self.on_violation not in {"alert", "fail"}:
            raise ConfigError(
                f"invariant {self.title!r}: on_violation {self.on_violation!r} is neither 'alert' "
                "nor 'fail'"
            )

    @property
    def title(self) -> str:
        """What it is called."""
        return self.name or getattr(self.check, "__name__", repr(self.check))


class Violation(msgspec.Struct, frozen=True):
    """An invariant that a snapshot does not have. ``is_fatal``: the job is to fail."""

    invariant: str
    job: str
    checkpoint_id: int
    message: str
    is_fatal: bool = False


def run_invariants(
    invariants: Iterable[Invariant | Callable[[Snapshot], object]], snapshot: Snapshot
) -> list[Violation]:
    """Return which invariants do not hold of ``snapshot``; a plain function may only alert.

    One that raises does not keep the others from being checked.

    Raises:
        ConfigError: one is no function.
    """
    found = []
    for item in invariants:
        invariant = item if isinstance(item, Invariant) else Invariant(item)
        message = _violation(invariant, snapshot)
        if message:
            is_fatal = invariant.on_violation == "fail"
            found.append(
                Violation(invariant.title, snapshot.job, snapshot.checkpoint_id, message, is_fatal)
            )
    return found


def _violation(invariant: Invariant, snapshot: Snapshot) -> str:
    """Return why an invariant does not hold; empty where it does."""
    try:
        answer = invariant.check(snapshot)
        is_held = answer is None or bool(answer)
    except AssertionError as error:
        return next(iter(str(error).splitlines()), "") or _line(error)
    except Exception as error:  # the user's code may raise anything
        return f"it raised {type(error).__name__}: {error} ({_line(error)})"
    if isinstance(answer, str):
        return answer
    return "" if is_held else f"it answered {answer!r}"


def _line(error: BaseException) -> str:
    """Return the line of the user's code that raised."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.line or 'a line'} at {frame.filename}:{frame.lineno}"
