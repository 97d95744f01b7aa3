"""The simulated disk as a ``FileSystem``: every changing call is an effect, and may fail."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from flowsnap.storage.filesystem import Entry, FileSystem
from flowsnap.testing.disk import ABSENT, Disk, Inode
from flowsnap.testing.world import Actor

FIRST_DESCRIPTOR = 1_000_000
_Call = tuple[int, str, str, tuple[int, bool] | None]
"""The number of an effect, its name and path, and its fault: errno, and whether it takes effect."""


class _Open:
    __slots__ = ("inode", "position")

    def __init__(self, inode: Inode) -> None:
        self.inode = inode
        self.position = 0


class DiskFileSystem(FileSystem):
    """The disk as one process sees it."""

    def __init__(self, disk: Disk, actor: Actor) -> None:
        self.world = disk.world
        self._disk = disk
        self._actor = actor
        self._open: dict[int, _Open] = {}
        self._next = FIRST_DESCRIPTOR

    def create(self, path: Path) -> int:
        text = str(path)
        if not self._disk.owns(text):
            return super().create(path)
        call = self._begin("create", text)
        if self._disk.find(text) is not ABSENT:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), text)
        inode = self._disk.new_inode(self._actor)
        directory, _, name = text.rpartition("/")
        self._disk.change(self._actor, directory, {name: inode})
        self._end(call)
        return self._descriptor(inode)

    def open(self, path: Path) -> int:
        text = str(path)
        if not self._disk.owns(text):
            return super().open(path)
        return self._descriptor(self._disk.file(text))

    def read(self, descriptor: int, size_bytes: int) -> bytes:
        opened = self._open.get(descriptor)
        if opened is None:
            return super().read(descriptor, size_bytes)
        data = opened.inode.content[opened.position : opened.position + size_bytes]
        opened.position += len(data)
        return data

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        opened = self._open.get(descriptor)
        if opened is None:
            return super().write(descriptor, data)
        call = self._begin("write", "")
        if self._disk.quota_bytes is not None:
            self._take_space(len(data), self._disk.quota_bytes)
        opened.inode.content += bytes(data)
        self._end(call)
        return len(data)

    def fsync(self, descriptor: int) -> None:
        opened = self._open.get(descriptor)
        call = self._begin("fsync", "")
        if opened is None:
            self._disk.synced_outside.add(os.fstat(descriptor).st_ino)
        elif not self._disk.sync(opened.inode):
            raise self._fault("fsync", "", errno.EIO)
        self._end(call)

    def close(self, descriptor: int) -> None:
        if self._open.pop(descriptor, None) is None:
            super().close(descriptor)

    def restrict(self, descriptor: int) -> None:
        if descriptor not in self._open:
            super().restrict(descriptor)

    def status(self, descriptor: int) -> os.stat_result:
        opened = self._open.get(descriptor)
        if opened is None:
            return super().status(descriptor)
        return _status(0o100600, opened.inode.number, len(opened.inode.content))

    def link(self, source: Path, target: Path) -> None:
        here, there = str(source), str(target)
        is_ours = self._disk.owns(here)
        if not (is_ours and self._disk.owns(there)):
            if not self._disk.links_outside:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), there)
            if is_ours:
                self._link_out(here, target)
                return
        call = self._begin("link", there)
        inode = self._disk.file(here) if is_ours else self._link_in(source)
        if self._disk.find(there) is not ABSENT:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), there)
        directory, _, name = there.rpartition("/")
        self._disk.change(self._actor, directory, {name: inode})
        self._end(call)

    def replace(self, source: Path, target: Path) -> None:
        here, there = str(source), str(target)
        call = self._begin("replace", there)
        inode = self._disk.file(here)
        directory, _, name = there.rpartition("/")
        assert directory == here.rpartition("/")[0], "renamed across directories"
        if self._disk.find(there) is inode:
            return  # POSIX: two names of one file stay as they are.
        names: dict[str, object] = {name: inode, here.rpartition("/")[2]: ABSENT}
        self._disk.change(self._actor, directory, names)
        self._end(call)

    def unlink(self, path: Path) -> None:
        text = str(path)
        if not self._disk.owns(text):
            super().unlink(path)
            return
        self._disk.file(text)
        call = self._begin("unlink", text)
        directory, _, name = text.rpartition("/")
        self._disk.change(self._actor, directory, {name: ABSENT})
        self._end(call)

    def make_directory(self, path: Path) -> None:
        text = str(path)
        if not self._disk.owns(text):
            super().make_directory(path)
            return
        if self._disk.find(text) is not ABSENT:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), text)
        call = self._begin("make_directory", text)
        directory, _, name = text.rpartition("/")
        self._disk.change(self._actor, directory, {name: None})
        self._end(call)

    def remove_directory(self, path: Path) -> None:
        text = str(path)
        if not self._disk.owns(text):
            super().remove_directory(path)
            return
        if self._disk.tree.get(text):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), text)
        if text not in self._disk.tree:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), text)
        call = self._begin("remove_directory", text)
        directory, _, name = text.rpartition("/")
        self._disk.change(self._actor, directory, {name: ABSENT})
        self._end(call)

    def fsync_directory(self, path: Path) -> None:
        text = str(path)
        if not self._disk.owns(text):
            return
        call = self._begin("fsync_directory", text)
        self._disk.sync_directory(text)
        self._end(call)

    def scan(self, path: Path) -> list[Entry]:
        text = str(path)
        if not self._disk.owns(text):
            return super().scan(path)
        return [
            Entry(name, inode is not None, inode is None, len(inode.content) if inode else 0)
            for name, inode in sorted(self._disk.tree.get(text, {}).items())
        ]

    def directory_status(self, path: Path) -> os.stat_result:
        if not self._disk.owns(str(path)):
            return super().directory_status(path)
        return _status(0o040700, 0, 0)

    def is_directory(self, path: Path) -> bool:
        text = str(path)
        return text in self._disk.tree if self._disk.owns(text) else super().is_directory(path)

    def is_file(self, path: Path) -> bool:
        text = str(path)
        if not self._disk.owns(text):
            return super().is_file(path)
        return isinstance(self._disk.find(text), Inode)

    def _link_in(self, source: Path) -> Inode:
        """Return a real file as one of this disk; nobody writes to it any more."""
        inode = self._disk.new_inode(self._actor)
        inode.content = source.read_bytes()
        if source.stat().st_ino in self._disk.synced_outside:
            inode.durable = inode.content
        return inode

    def _link_out(self, here: str, target: Path) -> None:
        """Make a real file of one of this disk, which nobody will write to."""
        with open(target, "xb", buffering=0) as file:
            file.write(self._disk.file(here).content)

    def _take_space(self, size_bytes: int, quota_bytes: int) -> None:
        disk, reached = self._disk, self.world.trace.reached
        used_bytes = disk.used_bytes()
        if used_bytes + size_bytes > quota_bytes:
            reached("used up space")
            disk.full_bytes = used_bytes
            raise self._fault("write", "", errno.ENOSPC)
        if disk.full_bytes is not None and used_bytes < disk.full_bytes:
            reached("space comes back")

    def _descriptor(self, inode: Inode) -> int:
        self._next += 1
        self._open[self._next] = _Open(inode)
        return self._next

    def _begin(self, what: str, path: str) -> _Call:
        """Pass the place before a changing call, and fail there if it is to do nothing."""
        disk = self._disk
        disk.calls += 1
        name = f"{what} {shown(disk.below(path))}"
        fault = disk.faults.pop(disk.calls, None) if disk.faults else None
        if fault is None and disk.points:
            fault = disk.fault_at(name)
        number = self.world.begin_effect(self._actor, name)
        if fault is not None and not fault[1]:
            raise self._fault(what, path, fault[0])
        return number, what, path, fault

    def _end(self, call: _Call) -> None:
        """Pass the place after it, and fail there if it has taken effect all the same."""
        number, what, path, fault = call
        self.world.end_effect(self._actor, number)
        if fault is not None:
            raise self._fault(what, path, fault[0])

    def _fault(self, what: str, path: str, number: int) -> OSError:
        world = self.world
        world.note(self._actor.name, f"{what} fails: {errno.errorcode[number]}")
        if number == errno.ENOSPC:
            world.trace.reached("full disk")
        elif what.startswith("fsync"):
            world.trace.reached("failed sync")
        is_naming = what == "link" and path.endswith("manifest.json")
        if is_naming or (what == "fsync_directory" and self._disk.has_new_manifest(path)):
            world.trace.reached("manifest of unknown outcome")
        return OSError(number, os.strerror(number), path)


def shown(path: str) -> str:
    """Return a path without what is random in it."""
    directory, _, name = path.rpartition("/")
    if name.startswith(".tmp"):
        return f"{directory}/.tmp"
    return f"{path[:24]}*" if directory == "shared" else path


def _status(mode: int, number: int, size_bytes: int) -> os.stat_result:
    return os.stat_result((mode, number, 0, 1, os.geteuid(), os.getegid(), size_bytes, 0, 0, 0))
