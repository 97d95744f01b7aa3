"""The checkpoint store in memory: the twin of the directory, for tests and simulation."""

from __future__ import annotations

import os
import threading
from hashlib import sha256
from pathlib import Path

from flowsnap.errors import StorageError
from flowsnap.storage.store import (
    AFTER_NAMED,
    BEFORE_NAMED,
    Names,
    StepCallback,
    StoredFile,
    StoredFiles,
    check_name,
    check_prefix,
    tell_steps,
)


class MemoryStore:
    """A ``CheckpointStore`` that is gone with the process."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def put(self, name: str, data: bytes) -> None:
        self._check_free(name)
        self._files[name] = bytes(data)

    def put_file(self, name: str, path: Path) -> None:
        self._check_free(name)
        if path.is_symlink() or not path.is_file():
            raise StorageError(f"cannot store {path} as {name}: no regular file")
        try:
            self._files[name] = path.read_bytes()
        except OSError as error:
            raise StorageError(f"cannot store {path} as {name}: {error.strerror}") from error

    def create(self, name: str, data: bytes, *, on_step: StepCallback | None = None) -> bool:
        self._check_free(name)
        if name in self._files:
            return False
        tell_steps(name, BEFORE_NAMED, on_step)
        with self._lock:
            if name in self._files:
                return False
            self._files[name] = bytes(data)
        tell_steps(name, AFTER_NAMED, on_step)
        return True

    def get(self, name: str) -> bytes:
        data = self._files.get(check_name(name))
        if data is None:
            raise StorageError(f"cannot read {name}: no such file")
        return data

    def fetch(self, name: str, path: Path, *, is_immutable: bool) -> None:
        data = self.get(name)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
        except OSError as error:
            raise StorageError(f"cannot fetch {name} to {path}: {error.strerror}") from error

    def exists(self, name: str) -> bool:
        return check_name(name) in self._files

    def delete(self, name: str, *, is_durable: bool = True) -> None:
        self._files.pop(check_name(name), None)

    def sha256(self, name: str) -> str:
        return sha256(self.get(name)).hexdigest()

    def delete_temporaries(self) -> int:
        return 0

    def strangers(self) -> Names:
        return []

    def list(self, prefix: str = "") -> StoredFiles:
        check_prefix(prefix)
        return [
            StoredFile(name, len(data))
            for name, data in sorted(self._files.items())
            if name.startswith(prefix)
        ]

    def _check_free(self, name: str) -> None:
        """Refuse what no directory could hold: a file that is the directory of another."""
        parts = check_name(name).split("/")
        above = {"/".join(parts[:count]) for count in range(1, len(parts))}
        if above & self._files.keys() or any(key.startswith(name + "/") for key in self._files):
            raise StorageError(f"cannot write {name}: a file cannot be the directory of another")
