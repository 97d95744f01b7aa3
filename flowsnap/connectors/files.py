"""Which files does a path given to a source mean, and what is each called over restarts?

A path may be the URL of objects (``s3://bucket/logs/*.gz``): formats know nothing of where a file
is, and open it by ``open_input`` or ``open_scattered``.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any

from flowsnap.bucket.url import ObjectUrl, is_url, unfolded
from flowsnap.core.operator import Split
from flowsnap.errors import ConfigError

Path = str | os.PathLike[str]
Paths = Path | Sequence[Path]


@dataclass(frozen=True, slots=True)
class InputFile:
    """A regular file: ``name`` is its identity over restarts, ``path`` is absolute, or a URL.

    ``version`` tells what an object held when it was found; a file has none.
    """

    name: str
    path: str
    size_bytes: int
    version: str | None = None

    def payload(self, start: int, end: int | None) -> dict[str, Any]:
        """Return the payload of the split of a range of it."""
        payload = {"path": self.path, "start": start, "end": end}
        if self.version is not None:
            payload |= {"size_bytes": self.size_bytes, "version": self.version}
        return payload


@dataclass(frozen=True, slots=True)
class _Match:
    """What one given path means: ``base`` is the part of it that is no pattern, absolute.

    ``known``: size and version of what need not be looked at any more.
    """

    base: str
    paths: list[str]
    known: dict[str, tuple[int, str]] = field(default_factory=dict)


def as_paths(path: Paths) -> tuple[str, ...]:
    """Return one path or several as strings.

    Raises:
        ConfigError: there is none, or one is no path.
    """
    given = [path] if isinstance(path, (str, bytes, os.PathLike)) else path
    if not isinstance(given, (list, tuple)) or not given:
        raise ConfigError(f"{path!r} is not a path").hint(
            "give a file, a directory or a glob such as 'logs/**/*.txt', or a list of them; each"
            " may be the URL of objects"
        )
    return tuple(_as_path(one) for one in given)


def are_remote(paths: Sequence[str], are_followed: bool) -> bool:
    """Return whether paths are of objects.

    Raises:
        ConfigError: some are, some are of files, and they are to be followed.
    """
    remote = [is_url(path) for path in paths]
    if are_followed and any(remote) and not all(remote):
        raise ConfigError("files and objects cannot be followed by one source").hint(
            "read each by a source of its own, and unite the streams"
        )
    return any(remote)


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
                name = _name(path, match.base, labels[match.base])
                known = match.known.get(path)
                found[path] = (
                    _inspect(path, name) if known is None else InputFile(name, path, *known)
                )
    return list(found.values())


def kept_versions(splits: Sequence[Split], known: Sequence[tuple[Split, Any]]) -> list[Split]:
    """Return splits, those of objects that a checkpoint knows with the versions that it knows.

    So an object that was changed meanwhile is not gone on with, but told of when it is opened. Of
    data that was moved the version is another, and the size has to be the same.

    Raises:
        ConfigError: one was changed, and has ranges now that it had not, or was moved, too; or what
            the checkpoint knows are the lanes of a source that followed.
    """
    followed = [split.id for split, _ in known if "lane" in split.payload]
    if followed:
        raise ConfigError(f"{followed[0]} was read by a source that followed").hint(
            "write follow=True again, or give the source that does not follow another name"
        )
    before = {split.id: split for split, _ in known}
    versions = {split.payload["path"]: split.payload.get("version") for split, _ in known}
    return [
        one if one.payload.get("version") is None else _kept(one, before.get(one.id), versions)
        for one in splits
    ]


def _kept(split: Split, before: Split | None, versions: Mapping[str, str | None]) -> Split:
    """Return the split of an object with the version that it had ``before``."""
    path, version, size_bytes = (split.payload[key] for key in ("path", "version", "size_bytes"))
    if before is not None and before.payload["path"] == path:
        return before
    former_bytes = None if before is None else before.payload.get("size_bytes")
    if versions.get(path, version) != version or former_bytes not in (None, size_bytes):
        raise ConfigError(f"{path} is not what it was when the job was submitted").hint(
            "put the object back as it was, or start the job afresh"
        )
    return split


def open_input(payload: dict[str, Any]) -> IO[bytes]:
    """Open the file of a split, or of no more than a ``path``, to be read in a row.

    Raises:
        OSError: a file cannot be opened; FileNotFoundError where it has vanished.
        StorageError: an object has vanished.
    """
    path: str = payload["path"]
    if not is_url(path):
        return open(path, "rb")
    from flowsnap.connectors.object_reading import open_object  # noqa: PLC0415 - needs an extra

    size_bytes, version = payload.get("size_bytes"), payload.get("version", "")
    return open_object(path, size_bytes, version, payload.get("end"))


def open_scattered(payload: dict[str, Any]) -> Any:
    """Return what a library of a format opens as the file: its path, or an object."""
    path: str = payload["path"]
    if not is_url(path):
        return path
    from flowsnap.connectors import object_reading  # noqa: PLC0415 - needs an extra

    size_bytes, version = payload.get("size_bytes"), payload.get("version", "")
    return object_reading.open_scattered(path, size_bytes, version)


def size_of(file: IO[bytes]) -> int:
    """Return how large an open file is now; the size of an object is that of its version."""
    size_bytes: int | None = getattr(getattr(file, "raw", None), "size_bytes", None)
    return os.fstat(file.fileno()).st_size if size_bytes is None else size_bytes


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
    text = unfolded(text) if isinstance(path, os.PathLike) else text
    if is_url(text):
        ObjectUrl.parse_files(text)
    return text


def _match(path: str) -> _Match:
    if is_url(path):
        return _match_objects(path)
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


def _match_objects(url: str) -> _Match:
    from flowsnap.connectors.object_files import find_objects  # noqa: PLC0415 - needs an extra

    base, found = find_objects(url)
    known = {path: (one.size_bytes, one.version) for path, one in found.items()}
    return _Match(base, list(known), known)


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
    if path == base:
        return label
    return f"{label}/{path[len(base) + 1 :] if is_url(path) else os.path.relpath(path, base)}"


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
