"""A bucket as files are kept in it: found, read by ranges, stored, copied and deleted.

A version is the ``ETag`` that the service gives to what an object holds: whoever reads a range says
which version it is to be of, so that two reads of an object that was changed are never mixed.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from hashlib import sha256
from threading import Event
from typing import IO, TYPE_CHECKING, NamedTuple, Self, TypeVar

from flowsnap.errors import ConfigError, StorageError

try:
    import obstore
    from obstore.exceptions import GenericError, PreconditionError
except ImportError as error:
    raise ConfigError("files in object storage need the package obstore").hint(
        "pip install 'flowsnap[s3]'"
    ) from error

from flowsnap.bucket.remote import client_of
from flowsnap.bucket.requests import PART_BYTES, answered, put_file
from flowsnap.bucket.retrying import RetryPolicy
from flowsnap.bucket.url import ObjectUrl

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import ObjectStore as Remote

REQUEST_TIMEOUT_MS = 30_000
LISTED_AT_ONCE = 1_000
AZURE = "az"
TRIES_MAX = 8
"""How often a request is made before its failure is one of the job."""

PAUSE_MS_FIRST = 100
"""How long is waited before the second try; see ``RetryPolicy``."""

_SERVICES = ("AWS_", "AZURE_", "GOOGLE_")

R = TypeVar("R")


class Found(NamedTuple):
    """An object that was found."""

    key: str
    size_bytes: int
    version: str
    modified_ms: int


class ObjectGone(StorageError):
    """An object has vanished, or is of another version than the one that was to be read."""


class Bucket:
    """A bucket; threads may share one.

    Raises:
        StorageError: from every method, when the service refuses, or has not answered for as long
            as ``policy`` says.
    """

    def __init__(self, url: ObjectUrl, remote: Remote, policy: RetryPolicy | None = None) -> None:
        self._root = ObjectUrl(url.scheme, url.bucket, "")
        self._remote = remote
        self._policy = policy or RetryPolicy(TRIES_MAX, PAUSE_MS_FIRST)

    def __repr__(self) -> str:
        return f"Bucket({str(self._root)!r})"

    def until(self, closing: Event) -> Self:
        """Return the same bucket, whose requests are not repeated any more when an event is set."""

        def pause(pause_s: float) -> None:
            if closing.wait(pause_s):
                raise StorageError(f"work in {self._root} was given up", is_definite=False)

        same = copy.copy(self)
        same._policy = RetryPolicy(TRIES_MAX, PAUSE_MS_FIRST, sleep=pause)
        return same

    def url_of(self, key: str) -> str:
        """Return the URL of an object."""
        return str(self._root / key)

    def find(self, key: str) -> Found | None:
        """Return an object by its key; None: there is none."""

        def once() -> Found | None:
            try:
                return _found(obstore.head(self._remote, key))
            except FileNotFoundError:
                return None

        return self._run(f"cannot look for {self.url_of(key)}", once)

    def list_below(self, directory: str) -> list[Found]:
        """Return what lies below a directory, by key; the empty one is the whole bucket.

        Objects without content are left out: so consoles and file browsers mark directories.
        """

        def once() -> list[Found]:
            with self._there():
                pages = obstore.list(self._remote, directory or None, chunk_size=LISTED_AT_ONCE)
                return [_found(item) for page in pages for item in page if item["size"]]

        return sorted(self._run(f"cannot list {self.url_of(directory)}", once))

    def list_flat(self, directory: str) -> list[Found]:
        """Return what lies in a directory itself, as ``list_below``."""

        def once() -> list[Found]:
            with self._there():
                found = obstore.list_with_delimiter(self._remote, directory or None)
                return [_found(item) for item in found["objects"] if item["size"]]

        return sorted(self._run(f"cannot list {self.url_of(directory)}", once))

    def read(self, key: str, start: int, end: int, version: str) -> bytes:
        """Return the bytes ``[start, end)`` of a version of an object; none where that is empty.

        Raises:
            ObjectGone: the object has vanished, or is of another version now.
        """
        if start >= end:
            return b""
        url = self.url_of(key)
        options: GetOptions = {"range": (start, end)}
        if version:
            options["if_match"] = version

        def once() -> bytes:
            try:
                data = bytes(obstore.get(self._remote, key, options=options).bytes())
            except FileNotFoundError:  # What it says has the URL of the request.
                raise ObjectGone(f"{url} has vanished").hint(
                    "objects are read again after a failure: keep them until the job has finished"
                ) from None
            except PreconditionError:
                raise _changed(url) from None
            if len(data) < end - start:
                raise _changed(url)
            return data

        return self._run(f"cannot read {url}", once)

    def put_file(self, key: str, file: IO[bytes], size_bytes: int) -> None:
        """Store a file that is read from its beginning; it is seen whole, or not at all."""

        def once() -> None:
            with self._there():
                put_file(self._remote, key, file, size_bytes)

        what = f"cannot store {self.url_of(key)}"
        answered(self._policy, what, once, is_definite=False, from_failure=True)

    def copy(self, key: str, target: str) -> bool:
        """Copy an object within the service, over what is there; False: there is none to copy.

        Azure may answer before a copy is done, and obstore does not tell: there it is read and
        written anew.
        """
        if self._root.scheme == AZURE:
            return self._copy_through_here(key, target)

        def once() -> bool:
            try:
                obstore.copy(self._remote, key, target)
            except FileNotFoundError:
                return False
            return True

        return self._run(f"cannot copy {self.url_of(key)} to {target}", once, is_definite=False)

    def _copy_through_here(self, key: str, target: str) -> bool:
        found = self.find(key)
        if found is None:
            return False
        with tempfile.TemporaryFile(prefix="flowsnap-") as file:
            try:
                # A request has a limit of time, so it has one of size.
                for start in range(0, found.size_bytes, PART_BYTES):
                    end = min(start + PART_BYTES, found.size_bytes)
                    file.write(self.read(key, start, end, found.version))
            except ObjectGone:
                return False
            self.put_file(target, file, found.size_bytes)
        return True

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, some of which may be gone already; several in one request, if it can."""
        named = list(keys)

        def once() -> None:
            try:
                obstore.delete(self._remote, named)
            except FileNotFoundError:  # Some services say so; of the others it tells nothing.
                for key in named:
                    with suppress(FileNotFoundError):
                        obstore.delete(self._remote, key)

        if named:
            below = self.url_of(named[0])
            self._run(f"cannot delete {below} and {len(named) - 1} more", once, is_definite=False)

    @contextmanager
    def _there(self) -> Iterator[None]:
        """Say what is missing where a service cannot mean an object."""
        try:
            yield
        except (FileNotFoundError, GenericError) as error:
            # Of a list, obstore does not tell in a better way that it was answered with 404.
            if isinstance(error, GenericError) and "status code: 404 " not in str(error):
                raise
            raise StorageError(f"there is no bucket {self._root}").hint(
                "is its name right, and is it of this service, region and account?"
            ) from None

    def _run(self, what: str, call: Callable[[], R], *, is_definite: bool = True) -> R:
        return answered(self._policy, what, call, is_definite=is_definite)


def bucket_of(url: ObjectUrl, timeout_ms: int | None = None) -> Bucket:
    """Return the bucket that a URL is in, as the environment says how to reach it.

    ``timeout_ms``: of one request, 30 s by default.

    Raises:
        ConfigError: it does not say what the service needs to know.
    """
    timeout_ms = REQUEST_TIMEOUT_MS if timeout_ms is None else timeout_ms
    return Bucket(url, _client(url.scheme, url.bucket, timeout_ms, _environment()))


@lru_cache(maxsize=16)
def _client(scheme: str, bucket: str, timeout_ms: int, environment: str) -> Remote:
    """Return a client, with the connections that it keeps open; one for each environment."""
    return client_of(ObjectUrl(scheme, bucket, ""), timeout_ms=timeout_ms)


def _environment() -> str:
    """Return what is the same as long as the services' settings are, and tells none of them."""
    settings = sorted(item for item in os.environ.items() if item[0].startswith(_SERVICES))
    return sha256(repr(settings).encode()).hexdigest()


def _found(item: obstore.ObjectMeta) -> Found:
    modified_ms = int(item["last_modified"].timestamp() * 1000)
    return Found(item["path"], item["size"], item["e_tag"] or "", modified_ms)


def _changed(url: str) -> ObjectGone:
    return ObjectGone(f"{url} is not what it was when the job was submitted").hint(
        "put the object back as it was, or start the job afresh"
    )
