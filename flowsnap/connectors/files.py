"""Which files does a path given to a source mean, and what is each called over restarts?"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from flowsnap.errors import ConfigError

Path = str | os.PathLike[str]
Paths = Path | Sequence[Path]


@dataclass(frozen=True, slots=True)
class InputFile:
    """A regular file: ``name`` is its identity over restarts, ``path`` is absolute."""

    name: str
    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Match:
    """What one given path means: ``base`` is the part of it that is no pattern, absolute."""

    base: str
    paths: list[str]


def as_paths(path: Paths) -> tuple[str, ...]:
    """Return one path or several as strings.

    Raises:
        ConfigError: there is none, or one is no path.
    """
    given = [path] if isinstance(path, (str, bytes, os.PathLike)) else path
    if not isinstance(given, (list, tuple)) or not given:
        raise ConfigError(f"{path!r} is not a path").hint(
            "give a file, a directory or a glob such as 'logs/**/*.txt', or a list of them"
        )
    return tuple(_as_path(one) for one in given)


def find_files(paths: Sequence[str]) -> list[InputFile]:
    """Return the files that ``paths`` mean, each once, in a stable order.

    A directory means all regular files below it, sorted; hidden ones and those ending in ``.tmp``
    are left out, because that is how a sink calls what it has not committed. A glob follows the
    same rules, unless its pattern ends in ``.tmp`` itself.

    A file's name is its path from its base on (``books/a.txt`` for the directory ``/data/books``),
    so that the data may be moved. Where two bases have the same last name, it is the whole path.

    Raises:
        ConfigError: a path is missing, unreadable or no regular file, or nothing matches it.
    """
    matches = [_match(path) for path in paths]
    labels = _labels({match.base for match in matches})
    found: dict[str, InputFile] = {}
    for match in matches:
        for path in match.paths:
            if path not in found:
                found[path] = _inspect(path, _name(path, match.base, labels[match.base]))
    return list(found.values())


def find_growing(paths: Sequence[str]) -> dict[str, os.stat_result]:
    """Return the plain files that ``paths`` mean now, none of which need be there.

    By the rules of ``find_files``; compressed files are left out, since they do not grow.
    """
    found: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            found += _visible(path)
        elif os.path.exists(path):
            found.append(path)
        elif glob.has_magic(path):
            matching = glob.iglob(path, recursive=True)
            found += (one for one in matching if path.endswith(".tmp") or not one.endswith(".tmp"))
    result: dict[str, os.stat_result] = {}
    for path in sorted(map(os.path.abspath, found)):
        if path.endswith((".gz", ".zst")):
            continue
        with suppress(OSError):  # It may have gone meanwhile.
            status = os.stat(path)
            if stat.S_ISREG(status.st_mode):
                result[path] = status
    return result


def _as_path(path: object) -> str:
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text:
        raise ConfigError(f"{path!r} is not a path").hint("give a str or a pathlib.Path")
    return text


def _match(path: str) -> _Match:
    absolute = os.path.abspath(path)
    if os.path.isfile(absolute):
        return _Match(absolute, [absolute])
    if os.path.isdir(absolute):
        return _Match(absolute, _below(absolute, path))
    if os.path.exists(absolute):
        raise ConfigError(f"{path} is not a regular file").hint(
            "a pipe or a device cannot be read again after a failure: copy it into a file first"
        )
    if glob.has_magic(path):
        return _matching(path)
    raise ConfigError(f"{path} does not exist").hint(
        f"relative paths are looked up from {os.getcwd()}, where the job is submitted"
    )


def _below(directory: str, shown: str) -> list[str]:
    def refuse(error: OSError) -> None:
        raise ConfigError(f"{error.filename} cannot be listed: {error.strerror}").hint(
            "make the directory readable, or name the files"
        ) from error

    files = sorted(filter(os.path.isfile, _visible(directory, refuse)))
    if not files:
        raise ConfigError(f"the directory {shown} holds no files").hint(
            "hidden files and those ending in .tmp do not count"
        )
    return files


def _visible(directory: str, onerror: Callable[[OSError], object] | None = None) -> Iterator[str]:
    """Yield what lies below a directory and is neither hidden nor uncommitted."""
    for parent, directories, names in os.walk(directory, onerror=onerror):
        directories[:] = [name for name in directories if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and not name.endswith(".tmp"):
                yield os.path.join(parent, name)


def _matching(pattern: str) -> _Match:
    found = filter(os.path.isfile, glob.iglob(pattern, recursive=True))
    keep_temporary = pattern.endswith(".tmp")
    files = sorted(
        os.path.abspath(path) for path in found if keep_temporary or not path.endswith(".tmp")
    )
    if not files:
        raise ConfigError(f"no file matches {pattern}").hint(
            "** matches any number of directories; hidden files do not match a *"
        )
    parts = pattern.split(os.sep)
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return _Match(os.path.abspath(os.sep.join([*parts[:fixed], ""])), files)


def _labels(bases: set[str]) -> dict[str, str]:
    names = [os.path.basename(base) for base in bases]
    return {
        base: base if names.count(os.path.basename(base)) > 1 else os.path.basename(base)
        for base in bases
    }


def _name(path: str, base: str, label: str) -> str:
    return label if path == base else f"{label}/{os.path.relpath(path, base)}"


def _inspect(path: str, name: str) -> InputFile:
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"the file name {path!r} is not UTF-8").hint("rename the file") from error
    try:
        with open(path, "rb") as file:
            return InputFile(name, path, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}").hint(
            "make the file readable for whoever runs the job, or leave it out"
        ) from error
