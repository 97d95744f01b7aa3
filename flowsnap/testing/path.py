"""A path that remembers what was asked of it, because a simulated store asks thousands of times."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast


class RememberingPath(type(Path())):  # type: ignore[misc]  # the platform's own kind of path
    """A ``Path`` whose children and parent are made once; the real files below are as always."""

    def __truediv__(self, key: str | os.PathLike[str]) -> Any:
        known = self.__dict__.get("_known")
        if known is None:
            known = self.__dict__["_known"] = {}
        child = known.get(key)
        if child is None:
            child = known[key] = super().__truediv__(key)
        return child

    @property
    def parent(self) -> Any:
        """The directory that it is in."""
        parent = self.__dict__.get("_above")
        if parent is None:
            parent = self.__dict__["_above"] = super().parent
        return parent

    def __str__(self) -> str:
        text = self.__dict__.get("_text")
        if text is None:
            text = self.__dict__["_text"] = super().__str__()
        return cast(str, text)


def remembering(path: str | os.PathLike[str]) -> Path:
    """Return a path as ``Path`` does."""
    return cast(Path, RememberingPath(path))
