"""What becomes of other matches once there is one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from flowsnap.errors import ConfigError

_KINDS = ("no", "to_next", "past_last", "to_first", "to_last")


@dataclass(frozen=True)
class Skip:
    """Which matches a match rules out.

    ``Skip.NO``: none. ``Skip.TO_NEXT``: those that begin with the same record.
    ``Skip.PAST_LAST``: those that begin before it has ended, so that matches never overlap.
    ``Skip.to_first("b")``, ``Skip.to_last("b")``: those that begin before the first, or last,
    record of step "b"; if it has none, no match.

    Source: Flink CEP, "After Match Skip Strategy".
    """

    kind: str
    step: str | None = None

    NO: ClassVar[Skip]
    TO_NEXT: ClassVar[Skip]
    PAST_LAST: ClassVar[Skip]

    def __post_init__(self) -> None:
        if self.kind not in _KINDS or (self.step is None) != (self.kind in _KINDS[:3]):
            raise ConfigError(f"skip: ({self.kind!r}, {self.step!r}) is no way to skip").hint(
                'Skip.NO, Skip.TO_NEXT, Skip.PAST_LAST, Skip.to_first("b") or Skip.to_last("b")'
            )

    @classmethod
    def to_first(cls, step: str) -> Skip:
        """Go on with the first record of a step."""
        return cls("to_first", step)

    @classmethod
    def to_last(cls, step: str) -> Skip:
        """Go on with the last record of a step."""
        return cls("to_last", step)

    def limit(self, match: Iterable[tuple[int, str]]) -> int:
        """Return before which record others must not begin, once ``match`` has come out.

        ``match`` holds the number of each of its records, and the name of the step; the numbers
        of a key's records rise.
        """
        taken = list(match)
        if self.kind == "to_next":
            return taken[0][0] + 1
        if self.kind == "past_last":
            return taken[-1][0] + 1
        of_step = [number for number, step in taken if step == self.step]
        if not of_step:
            return 0
        return of_step[0] if self.kind == "to_first" else of_step[-1]


Skip.NO = Skip("no")
Skip.TO_NEXT = Skip("to_next")
Skip.PAST_LAST = Skip("past_last")
