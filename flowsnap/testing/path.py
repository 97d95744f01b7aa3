"""A path that remembers what was asked of it, because a simulated store asks thousands of times."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class RememberingPath(type(Path())):  # type: ignore[misc]  # the platform's own kind of path
    """A ``Path`` whose children and parent are made once; the real files below are as always."""

    _known: dict[Any, Any]
    _above: Any
    _text: str

    def __truediv__(self, key: str | os.PathLike[str]) -> Any:
        try:
            return self._known[key]
        except AttributeError:
            self._known = {}
        except KeyError:
            pass
        child = self._known[key] = super().__truediv__(key)
        return child

    @property
    def parent(self) -> Any:
        """The directory that it is in."""
        try:
            return self._above
        except AttributeError:
            self._above = super().parent
            return self._above

    def __str__(self) -> str:
        try:
            return self._text
        except AttributeError:
            text = self._text = str(super().__str__())
            return text


def remembering(path: str | os.PathLike[str]) -> Path:
    """Return a path as ``Path`` does."""
    return RememberingPath(path)
