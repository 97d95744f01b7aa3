"""Patterns: what keyed streams have for sequences of records.

A pattern is drawn in two steps: what is looked for, and what comes out for each match::

    logins.key_by("user").pattern(three_failures, skip=Skip.PAST_LAST).select(alarm)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from flowsnap.api.drawing import Drawing, Input, Request
from flowsnap.errors import ConfigError
from flowsnap.operators.pattern import MatchPattern, Pattern, Skip
from flowsnap.operators.side_output import OutputTag, tag_name

if TYPE_CHECKING:
    from flowsnap.api.stream import Stream

K = TypeVar("K")
V = TypeVar("V")
U = TypeVar("U")


class Patterns(Generic[K, V]):
    """What a keyed stream offers of patterns."""

    _drawing: Drawing
    _inputs: tuple[Input, ...]

    def pattern(
        self,
        pattern: Pattern,
        *,
        skip: Skip = Skip.NO,
        timed_out: OutputTag[dict[str, list[V]]] | str | None = None,
    ) -> PatternStream[V]:
        """Look for a sequence of records of one key: see ``Pattern``.

        Records count in the order of their event times, once the watermark has passed them; later
        ones go to the side output "late". Without event times, they count as they come. ``skip``
        says which other matches one rules out. Partial matches whose time (``within``) is up go to
        the side output ``timed_out``, as far as they have come.

        Raises:
            ConfigError: the pattern cannot be decided, or the arguments do not go together.
        """
        tag = None if timed_out is None else tag_name(timed_out)
        return PatternStream(self._drawing, self._inputs, pattern, skip, tag)


class PatternStream(Generic[V]):
    """The matches of a pattern; say what comes out for them."""

    def __init__(
        self,
        drawing: Drawing,
        inputs: tuple[Input, ...],
        pattern: Pattern,
        skip: Skip,
        timed_out: str | None,
    ) -> None:
        MatchPattern(pattern, dict, skip=skip, timed_out=timed_out)  # Mistakes show here.
        self._drawing = drawing
        self._inputs = inputs
        self._pattern = pattern
        self._skip = skip
        self._timed_out = timed_out

    def select(
        self,
        fn: Callable[[dict[str, list[V]]], U],
        *,
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[U]:
        """Emit ``fn(match)`` for each match: the records of each step, under its name."""
        return self._drawn(fn, name, parallelism, is_flat=False)

    def flat_select(
        self,
        fn: Callable[[dict[str, list[V]]], Iterable[U] | None],
        *,
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[U]:
        """Emit whatever ``fn(match)`` yields or returns in a list, for each match."""
        return self._drawn(fn, name, parallelism, is_flat=True)

    def _drawn(
        self, fn: Callable[..., Any], name: str | None, parallelism: int | None, *, is_flat: bool
    ) -> Stream[Any]:
        from flowsnap.api.stream import Stream  # noqa: PLC0415 - streams are made of matches too

        if not callable(fn):
            raise ConfigError(f"select: {fn!r} is not a function").hint(
                'for example select(lambda match: match["a"][0])'
            )
        code = MatchPattern(
            self._pattern, fn, skip=self._skip, timed_out=self._timed_out, is_flat=is_flat
        )
        request = Request(code, self._inputs, name, parallelism, is_keyed=True)
        return Stream(self._drawing, (Input(self._drawing.add(request)),))
