"""The checkers are not blind: engines that are broken on purpose are found out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from flowsnap.core import restore, retention
from flowsnap.core.aligner import Aligner
from flowsnap.core.commit import SinkCommits
from flowsnap.runtime.input import SourceInput
from flowsnap.runtime.task import TaskRunner
from flowsnap.storage.job_store import JobStore
from flowsnap.storage.writer import CheckpointWriter
from flowsnap.testing.disk_files import DiskFileSystem
from flowsnap.testing.simulate import run_seed
from flowsnap.testing.sink import TransactionalSink
from flowsnap.transport.session import PeerSession

SEEDS = 2_000  # within which a broken engine must be found; most are in some dozens
Break = Callable[[pytest.MonkeyPatch], None]


def alignment_that_blocks_nothing(patch: pytest.MonkeyPatch) -> None:
    original = Aligner.__init__
    patch.setattr(
        Aligner,
        "__init__",
        lambda self, channels, mode: original(self, channels, mode="at-least-once"),
    )


def commit_at_prepare(patch: pytest.MonkeyPatch) -> None:
    original = TransactionalSink.prepare

    def prepare(self: TransactionalSink, checkpoint_id: Any) -> Any:
        committable = original(self, checkpoint_id)
        if committable is not None:
            self.commit([committable])
        return committable

    patch.setattr(TransactionalSink, "prepare", prepare)


def files_without_sync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DiskFileSystem, "fsync", lambda self, descriptor: None)


def names_without_sync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DiskFileSystem, "fsync_directory", lambda self, path: None)


def manifests_that_are_not_secured(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(JobStore, "secure", lambda self, checkpoint_id: None)


def collection_of_everything_old(patch: pytest.MonkeyPatch) -> None:
    original = retention.collect

    def collect(manifests: Any, pending_paths: Any, stored: Any) -> list[str]:
        return original(manifests[-1:], pending_paths, stored)

    patch.setattr(retention, "collect", collect)


def prepared_output_that_is_not_in_the_snapshot(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SinkCommits, "pending", lambda self: ())


def sequence_numbers_that_nobody_checks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PeerSession, "accept", lambda self, header: None)


def stale_files_that_are_stored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CheckpointWriter, "_check_fence", lambda self, checkpoint_id: None)


def ends_that_are_not_restored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(restore, "_ended", lambda old, graph, dealt: set())


def positions_that_are_one_ahead(patch: pytest.MonkeyPatch) -> None:
    original = SourceInput.positions

    def positions(self: SourceInput) -> Any:
        return tuple(
            msgspec.structs.replace(one, position=(one.position or 0) + 1)
            if not one.is_finished
            else one
            for one in original(self)
        )

    patch.setattr(SourceInput, "positions", positions)


def barriers_before_the_last_records(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TaskRunner, "_flush", lambda self: None)


QUICK = [
    (alignment_that_blocks_nothing, "C9"),
    (commit_at_prepare, "C4"),
    (files_without_sync, "C8"),
    (prepared_output_that_is_not_in_the_snapshot, "C"),
    (positions_that_are_one_ahead, "C"),
    (names_without_sync, "C"),
]
SLOW = [
    (manifests_that_are_not_secured, "C4"),
    (collection_of_everything_old, "C8"),
    (sequence_numbers_that_nobody_checks, "C"),
    (stale_files_that_are_stored, "C7"),
    (ends_that_are_not_restored, "C4"),
    (barriers_before_the_last_records, "C"),
]


def found_by(seeds: int) -> str:
    for seed in range(seeds):
        outcome = run_seed(seed)
        if outcome.violation:
            return outcome.violation
    return ""


@pytest.mark.parametrize(("broken", "property_"), QUICK)
def test_a_broken_engine_is_found_out_soon(
    monkeypatch: pytest.MonkeyPatch, broken: Break, property_: str
) -> None:
    broken(monkeypatch)

    assert found_by(60).startswith(property_)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("broken", "property_"), SLOW)
def test_a_broken_engine_is_found_out(
    monkeypatch: pytest.MonkeyPatch, broken: Break, property_: str
) -> None:
    broken(monkeypatch)

    assert found_by(SEEDS).startswith(property_)
