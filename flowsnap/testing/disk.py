"""A simulated disk: what was not synced may be gone after a crash.

Content is durable once its file was synced, a name once its directory was. Until then a crash
decides for each change by chance: it has reached the disk, it is lost, or it stays where a living
kernel keeps it, to be decided by the next crash. Content that was not synced is cut off anywhere.
A sync that fails may have dropped what it was to write: readers still see it, the next sync returns
without an error, and on the disk there are zeros. A durable file may rot: one bit of it is another.
``DirectoryStore`` runs on it unchanged.

Only what lies below ``root`` is simulated, but for the local scratch there: that is real, because
nobody relies on it after a crash.

Source: Pillai et al., "All File Systems Are Not Created Equal" (OSDI 2014); Rebello et al., "Can
Applications Recover from fsync Failures?" (ATC 2020).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Protocol

from flowsnap.storage import layout
from flowsnap.testing.world import Actor, Point, World


class Inode:
    """One file: its content now, and what of it is durable; ``lost`` bytes never will be.

    ``pristine``: what was written, where the file has rotten since.
    """

    __slots__ = ("content", "durable", "lost", "number", "pristine", "writer")

    def __init__(self, number: int, writer: Actor) -> None:
        self.number = number
        self.writer = writer
        self.content = b""
        self.durable: bytes | None = None
        self.pristine: bytes | None = None
        self.lost = 0

    @property
    def written(self) -> bytes:
        """What was written, as far as it was not torn."""
        return self.content if self.pristine is None else self.pristine

    def written_out(self) -> bytes:
        """Return what the disk has once everything was written that the kernel still knows of."""
        return bytes(self.lost) + self.content[self.lost :] if self.lost else self.content


Directory = dict[str, "Inode | None"]
"""Names in a directory; None: a directory."""


class Change:
    """A change of names in one directory that is not durable yet: all of it or nothing."""

    __slots__ = ("actor", "directory", "names")

    def __init__(
        self, actor: Actor, directory: str, names: dict[str, tuple[object, object]]
    ) -> None:
        self.actor = actor
        self.directory = directory
        self.names = names


class DiskObserver(Protocol):
    """Who looks at every change of a name: ``path`` is below the root."""

    def name_changed(self, path: str, inode: Inode | None, actor: Actor) -> None:
        """A file has appeared, or disappeared (None)."""

    def name_durable(self, path: str, inode: Inode | None) -> None:
        """And that is durable."""


ABSENT = object()


class Disk:
    """The durable and the volatile part of one directory tree."""

    def __init__(self, world: World, root: Path, observer: DiskObserver) -> None:
        self.root = str(root)
        self.world = world
        self.tree: dict[str, Directory] = {self.root: {}}
        self.durable: dict[str, Inode] = {}  # by path below the root
        self.pending: list[Change] = []
        self.calls = 0
        self.faults: dict[int, tuple[int, bool]] = {}  # call: errno, takes effect
        self.points: list[tuple[Point, int, bool]] = []  # where, errno, takes effect
        self.syncs = 0  # of files
        self.lost_syncs: set[int] = set()
        self.rotten: dict[str, Inode] = {}  # by path below the root
        self.quota_bytes: int | None = None
        self.full_bytes: int | None = None  # how much there was when there was no more room
        self.links_outside = world.disk.random() < 0.5
        """Whether the local scratch is on the same file system: files are linked, not copied."""
        self.synced_outside: set[int] = set()  # by the numbers of their inodes
        self._observer = observer
        self._owned: dict[str, bool] = {}  # by path
        self._inodes = 0

    def new_inode(self, actor: Actor) -> Inode:
        """Return an empty file without a name."""
        self._inodes += 1
        return Inode(self._inodes, actor)

    def owns(self, path: str) -> bool:
        """Whether a path is on this disk."""
        known = self._owned.get(path)
        if known is None:
            rest = path[len(self.root) + 1 :]
            is_below = path.startswith(self.root)
            known = is_below and rest.partition("/")[0] not in layout.LOCAL
            self._owned[path] = known
        return known

    def find(self, path: str) -> Inode | object | None:
        """Return the file, None for a directory, or ``ABSENT``."""
        if path in self.tree:
            return None
        directory, _, name = path.rpartition("/")
        return self.tree.get(directory, {}).get(name, ABSENT)

    def file(self, path: str) -> Inode:
        """Return the file of a path, or raise the error of ``open``."""
        found = self.find(path)
        if not isinstance(found, Inode):
            kind = FileNotFoundError if found is ABSENT else IsADirectoryError
            number = errno.ENOENT if found is ABSENT else errno.EISDIR
            raise kind(number, os.strerror(number), path)
        return found

    def change(self, actor: Actor, directory: str, names: dict[str, object]) -> None:
        """Change names in one directory, atomically, until a crash."""
        here = self.tree.get(directory)
        if here is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), directory)
        was = {name: here.get(name, ABSENT) for name in names}
        self.pending.append(
            Change(actor, directory, {name: (was[name], now) for name, now in names.items()})
        )
        for name, now in names.items():
            self._set(directory, name, now, actor)

    def sync(self, inode: Inode) -> bool:
        """Make the content of a file durable; False: it failed, and has dropped it instead."""
        self.syncs += 1
        if self.syncs in self.lost_syncs and inode.durable is None and inode.content:
            inode.lost = len(inode.content)
            self.world.trace.reached("failed sync drops what was written")
            return False
        inode.durable = inode.written_out()
        return True

    def used_bytes(self) -> int:
        """Return the size of all files that have a name."""
        files = (inode for names in self.tree.values() for inode in names.values())
        return sum(len(inode.content) for inode in files if inode is not None)

    def sync_directory(self, directory: str) -> None:
        """Make the names in a directory durable, whoever has changed them."""
        rest = []
        for change in self.pending:
            if change.directory == directory:
                self._make_durable(change)
            else:
                rest.append(change)
        self.pending = rest

    def fault_at(self, shown: str) -> tuple[int, bool] | None:
        """Return the fault that is armed for a call, if its turn has come."""
        for armed in self.points:
            if armed[0].passes(shown):
                self.points.remove(armed)
                return armed[1:]
        return None

    def has_new_manifest(self, directory: str) -> bool:
        """Whether a manifest in a directory is visible and not durable."""
        return any(
            change.directory == directory and "manifest.json" in change.names
            for change in self.pending
        )

    def whole(self) -> Iterator[str]:
        """Yield the files, below the root, of which everything is durable, but empty ones."""
        for path, inode in self.durable.items():
            is_there = self.find(f"{self.root}/{path}") is inode
            if is_there and inode.content and inode.durable == inode.content:
                yield path

    def rot(self, path: str, chance: Random) -> None:
        """Turn one bit of a durable file over, below anybody's notice."""
        inode = self.file(f"{self.root}/{path}")
        place, bit = divmod(chance.randrange(len(inode.content) * 8), 8)
        damaged = bytearray(inode.content)
        damaged[place] ^= 1 << bit
        inode.pristine, inode.content = inode.written, bytes(damaged)
        inode.durable = inode.content
        self.rotten[path] = inode

    def repair(self, text: str) -> bool:
        """Put every rotten file that ``text`` names back, from a copy; return whether there was."""
        named = [path for path in self.rotten if path in text]
        for path in named:
            inode = self.rotten.pop(path)
            inode.content = inode.durable = inode.written
            inode.pristine = None
        return bool(named)

    def still_rotten(self) -> list[str]:
        """Return the rotten files that are still there."""
        return [p for p, inode in self.rotten.items() if self.find(f"{self.root}/{p}") is inode]

    def crash(self, victims: list[Actor], chance: Random, *, is_power_lost: bool) -> None:
        """Decide what becomes of the changes of processes that died; all of it if power failed."""
        undo, keep = [], []
        for change in self.pending:
            if not is_power_lost and change.actor not in victims:
                keep.append(change)
                continue
            draw = chance.random()
            if draw < 0.4:
                undo.append(change)
            elif draw < 0.7 or is_power_lost:
                self._make_durable(change)
            else:
                keep.append(change)
        self.pending = keep
        for change in reversed(undo):
            self.world.trace.reached("a name lost in a crash")
            self._undo(change)
        self._tear(victims, chance, is_power_lost=is_power_lost)

    def paths(self) -> Iterator[str]:
        """Yield the files there are, below the root."""
        for directory, names in self.tree.items():
            for name, inode in names.items():
                if inode is not None:
                    yield self.below(f"{directory}/{name}")

    def below(self, path: str) -> str:
        """Return a path relative to the root."""
        return path[len(self.root) + 1 :]

    def _tear(self, victims: list[Actor], chance: Random, *, is_power_lost: bool) -> None:
        for directory in self.tree.values():
            for inode in directory.values():
                if inode is None or inode.durable == inode.content:
                    continue
                if is_power_lost or inode.writer in victims:
                    self.world.trace.reached("a torn file after a crash")
                    cut = inode.written_out()[: chance.randrange(len(inode.content) + 1)]
                    inode.content = inode.durable = inode.durable or cut

    def _make_durable(self, change: Change) -> None:
        for name, (_, now) in change.names.items():
            path = self.below(f"{change.directory}/{name}")
            if isinstance(now, Inode):
                self.durable[path] = now
                self._observer.name_durable(path, now)
            elif self.durable.pop(path, None) is not None:
                self._observer.name_durable(path, None)

    def _undo(self, change: Change) -> None:
        here = self.tree.get(change.directory)
        if here is None:
            return
        for name, (was, now) in change.names.items():
            if here.get(name, ABSENT) is now:
                self._set(change.directory, name, was, change.actor)
            if now is None and was is ABSENT:
                self._forget(f"{change.directory}/{name}")

    def _forget(self, directory: str) -> None:
        """A directory that never reached the disk takes with it what was durable inside."""
        inside = self.below(directory) + "/"
        for path in [path for path in self.durable if path.startswith(inside)]:
            del self.durable[path]
            self._observer.name_durable(path, None)
        self.pending = [
            change for change in self.pending if not f"{change.directory}/".startswith(directory)
        ]

    def _set(self, directory: str, name: str, now: object, actor: Actor) -> None:
        here, path = self.tree[directory], f"{directory}/{name}"
        was = here.pop(name, ABSENT)
        if was is None and now is not None:
            self._drop_tree(path, actor)
        if isinstance(now, Inode):
            here[name] = now
        elif now is None:
            here[name] = None
            self.tree.setdefault(path, {})
        if isinstance(now, Inode) or isinstance(was, Inode):
            self._observer.name_changed(
                self.below(path), now if isinstance(now, Inode) else None, actor
            )

    def _drop_tree(self, directory: str, actor: Actor) -> None:
        for name in list(self.tree.get(directory, ())):
            self._set(directory, name, ABSENT, actor)
        self.tree.pop(directory, None)
