"""Kill a worker in the middle of a word count, and see that the result is exactly right.

Counts the words of the Python standard library's sources on two worker processes, kills one of them
with SIGKILL half-way, lets the job recover by itself, and compares the result with an independent
count. Everything happens in a temporary directory: ``python -m flowsnap.examples.demo``.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import sysconfig
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flowsnap.api import format as write
from flowsnap.api.display import follow
from flowsnap.api.pipeline import Pipeline
from flowsnap.api.render import progress
from flowsnap.connectors import Collect, TextFiles

if TYPE_CHECKING:
    from flowsnap.runtime.job import JobHandle

WORD = re.compile(r"[^\W\d_]{3,}")
VICTIM = 1
KILL_AT = 0.5
RUN_S = 8.0  # how long the input should keep the two workers busy, roughly
COPIES_MAX = 60
NOT_READ = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
POLL_S = 0.01
LOG = logging.getLogger("flowsnap.demo")


def words(line: str) -> list[str]:
    """Return the words of a line, in small letters."""
    return WORD.findall(line.lower())


def word_count(directory: Path, result: Collect) -> Pipeline:
    """Return the pipeline that counts the words of all files below a directory."""
    pipeline = Pipeline("wordcount")
    (
        pipeline.source(TextFiles(directory, split_bytes="8MB"), name="lines")
        .flat_map(words, name="words")
        .key_by()
        .count(emit="final", name="count")
        .sink(result, name="result")
    )
    return pipeline


@dataclass(slots=True)
class Kill:
    """What happened to the worker; ``recovered_ms`` is from its death until all tasks ran again."""

    pid: int
    progress: float
    attempt: int
    recovered_ms: float | None = None
    restored_from: int | None = None
    resumed_at: float = 0.0


class Killer(threading.Thread):
    """Kills one worker half-way, once there is a checkpoint, and watches the recovery."""

    def __init__(self, handle: JobHandle) -> None:
        super().__init__(name="killer", daemon=True)
        self._handle = handle
        self.kill: Kill | None = None

    def run(self) -> None:
        """Wait for the moment, kill, and note how the job comes back."""
        while not self._handle.is_done and self.kill is None:
            time.sleep(POLL_S)
            status = self._handle.status()
            done = progress(status) or 0.0
            pid = self._handle.worker_pids().get(VICTIM)
            if pid and done >= KILL_AT and status.checkpoints_completed:
                self.kill = Kill(pid, done, status.attempt)
                os.kill(pid, signal.SIGKILL)
                LOG.warning("killed worker %d (pid %d) at %s", VICTIM, pid, write.percent(done))
        if self.kill is not None:
            self._watch(self.kill, time.monotonic())

    def _watch(self, kill: Kill, killed_s: float) -> None:
        while not self._handle.is_done:
            time.sleep(POLL_S)
            status = self._handle.status()
            if status.attempt == kill.attempt or status.state != "running":
                continue
            if kill.recovered_ms is None:
                kill.recovered_ms = (time.monotonic() - killed_s) * 1000
                kill.restored_from = status.restored_from
            if kill.restored_from is None or progress(status):  # as soon as the sources tell
                kill.resumed_at = progress(status) or 0.0
                return


def collect_sources(file: Path) -> int:
    """Write the standard library's sources, without its tests; return how many there are."""
    root = Path(sysconfig.get_paths()["stdlib"])
    sources = [p for p in sorted(root.rglob("*.py")) if not NOT_READ & set(p.parts)]
    with file.open("wb") as output:
        for source in sources:
            output.write(source.read_bytes().replace(b"\r", b"") + b"\n")
    return len(sources)


def count_words(file: Path) -> Counter[str]:
    """Count the words of a file the plain way: what the pipeline must agree with."""
    counts: Counter[str] = Counter()
    with file.open(encoding="utf-8", errors="replace", newline="\n") as lines:
        for line in lines:
            counts.update(words(line))
    return counts


def link_copies(file: Path, directory: Path, copies: int) -> None:
    """Make the input: the same file under several names."""
    directory.mkdir()
    for number in range(copies):
        os.link(file, directory / f"sources-{number:02d}.txt")


def tell_kill(kill: Kill | None, console: Console) -> None:
    """Print what happened to the worker."""
    if kill is None:
        console.print("[yellow]the job was over before a worker could be killed[/]")
        return
    console.print(
        f"[bold]killed[/] worker {VICTIM} (pid {kill.pid}) with SIGKILL "
        f"when {write.percent(kill.progress)} was read"
    )
    if kill.recovered_ms is not None:
        replayed = max(kill.progress - kill.resumed_at, 0.0)
        console.print(
            f"[bold]restored[/] from checkpoint {kill.restored_from} "
            f"after {write.duration(kill.recovered_ms)}; "
            f"about {write.percent(replayed)} of the input was read again"
        )


def top_words(counts: Counter[str]) -> Table:
    """Return the ten most frequent words, with bars."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column()
    most = counts.most_common(10)
    for word, number in most:
        table.add_row(word, f"{number:,}", write.bar(number / most[0][1], 40, "cyan"))
    return table


def verdict(values: list[tuple[str, int]], expected: Counter[str], console: Console) -> bool:
    """Print whether the pipeline's result is right: every word once, with its exact count."""
    counted = dict(values)
    if len(values) > len(counted):
        console.print(Text(f"wrong: {len(values) - len(counted):,} words came twice", "bold red"))
        return False
    if counted == expected:
        total = f"{len(counted):,} different words, {sum(counted.values()):,} in all"
        agrees = f"exactly right: {total}, as an independent count says"
        console.print(Text(agrees, "bold green"), soft_wrap=True)
        return True
    wrong = [word for word in counted.keys() | expected if counted.get(word, 0) != expected[word]]
    console.print(Text(f"wrong: {len(wrong):,} words differ, such as {wrong[:5]}", "bold red"))
    return False


def demo(directory: Path, console: Console) -> bool:
    """Run the demonstration in a directory; return whether all went as it should."""
    file, result = directory / "sources.txt", Collect()
    files = collect_sources(file)
    started_s = time.monotonic()
    with console.status("counting the words the plain way, to compare with"):
        once = count_words(file)
    copies = min(max(2, round(RUN_S / (time.monotonic() - started_s))), COPIES_MAX)
    link_copies(file, directory / "input", copies)
    size = write.size(copies * file.stat().st_size)
    console.print(f"{files:,} files of the standard library, {copies} times over: {size} of text")
    handle = word_count(directory / "input", result).start(
        workers=2, state_dir=directory / "state", checkpoint_interval="500ms"
    )
    killer = Killer(handle)
    killer.start()
    ended = follow(handle)
    killer.join()
    if ended.state != "finished":
        return False
    expected = Counter({word: number * copies for word, number in once.items()})
    console.print()
    tell_kill(killer.kill, console)
    console.print(top_words(Counter(dict(result.values))))
    return verdict(result.values, expected, console) and killer.kill is not None


def main() -> None:
    """Run the demonstration and exit with 0 if the result is exactly right."""
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="flowsnap-demo-") as directory:
        is_right = demo(Path(directory), console)
    sys.exit(0 if is_right else 1)


if __name__ == "__main__":
    main()
