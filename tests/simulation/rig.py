"""One simulated disk with one process, and nobody who looks at it."""

from __future__ import annotations

from pathlib import Path
from random import Random

from flowsnap.storage.directory import DirectoryStore
from flowsnap.testing.disk import Disk, Inode
from flowsnap.testing.disk_files import DiskFileSystem
from flowsnap.testing.world import Actor, World


class Somebody:
    name = "somebody"

    def __init__(self) -> None:
        self.is_alive = True


class Endpoint(Somebody):
    """A process that nothing wakes."""

    pid = 1

    def wake(self, at_us: int) -> None:
        """Do nothing."""


class Nobody:
    def name_changed(self, path: str, inode: Inode | None, actor: Actor) -> None:
        """Look away."""

    def name_durable(self, path: str, inode: Inode | None) -> None:
        """Look away."""


class Rig:
    def __init__(self, root: Path) -> None:
        self.world = World(0)
        self.actor = Somebody()
        self.disk = Disk(self.world, root, Nobody())
        self.files = DiskFileSystem(self.disk, self.actor)
        self.store = DirectoryStore(root, self.files)
        self.root = root

    def lose_power(self, seed: int) -> None:
        self.disk.crash([self.actor], Random(seed), is_power_lost=True)

    def write_without_directory_sync(self, name: str, data: bytes) -> None:
        """Do what a writer has done that dies before the last sync of ``DirectoryStore.create``."""
        path = self.root / name
        self.store.put(str(Path(name).with_name("begun")), b"")
        descriptor = self.files.create(path)
        self.files.write(descriptor, data)
        self.files.fsync(descriptor)
        self.files.close(descriptor)
