"""Sources of files in object storage, on a real S3 server, keep what every source keeps."""

from __future__ import annotations

from typing import Any

import pytest

from flowsnap.core.operator import Source
from tests.contract.test_source import (  # noqa: F401 - they are collected here as well
    SOURCES,
    test_all_splits_together_give_every_record_once_in_order,
    test_end_stays_the_end,
    test_position_does_not_change_without_a_read,
    test_progress_never_falls_and_ends_at_the_size,
    test_restored_at_any_position_it_goes_on_with_the_next_record,
    test_splits_that_depend_on_the_parallelism_are_kept_by_a_restored_job,
)
from tests.places import BucketPlace
from tests.servers.s3 import Server

pytestmark = pytest.mark.slow


@pytest.fixture(params=["text in ranges", "gzip", "csv", "parquet"])
def case(
    request: pytest.FixtureRequest, s3: Server, monkeypatch: pytest.MonkeyPatch
) -> tuple[Source, list[Any]]:
    """Return a source and its records, split after split."""
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    bucket = s3.new_bucket()
    return SOURCES[request.param](BucketPlace(f"s3://{bucket}/data", s3.remote(bucket)))
