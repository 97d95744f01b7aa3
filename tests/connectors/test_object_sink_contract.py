"""A sink of files in object storage, on a real S3 server, keeps what every sink keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from flowsnap import failpoint
from flowsnap.connectors import JsonLinesFiles
from tests.contract.sinks import Case, Job
from tests.contract.test_sink import (  # noqa: F401 - they are collected here as well
    test_another_job_from_an_older_savepoint_commits_all_that_it_writes,
    test_commit_that_is_late_is_of_its_own_epoch_and_not_of_the_one_being_written,
    test_crash_at_any_point_shows_no_uncommitted_record_and_in_the_end_each_once,
    test_crash_of_a_recovery_is_recovered_from,
    test_repeated_recovery_changes_nothing,
    test_what_is_pending_is_committed_once_with_another_parallelism,
    test_whole_process_may_be_started_again,
)
from tests.places import BucketPlace
from tests.servers.s3 import Server

pytestmark = pytest.mark.slow


@pytest.fixture
def case(s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    """Yield a job and what its sink shows."""
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    bucket = s3.new_bucket()
    place = BucketPlace(f"s3://{bucket}/data", s3.remote(bucket))

    def visible() -> list[Any]:
        parts = [place.read(name) for name in place.names() if name.startswith("part-")]
        return [json.loads(line) for part in parts for line in part.splitlines()]

    with ExitStack() as zombies:
        template = JsonLinesFiles(place.path, existing="append")
        yield Job(template, tmp_path / "job", zombies), visible
    failpoint.arm("")
