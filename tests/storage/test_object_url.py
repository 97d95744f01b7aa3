"""Which URLs name a state directory, and that none of them shows a secret."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from flowsnap.bucket.url import ObjectUrl, is_url
from flowsnap.errors import ConfigError
from flowsnap.storage.object_url import as_state_dir

SECRET = "canary"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket", ObjectUrl("s3", "bucket", "")),
        ("s3://bucket/", ObjectUrl("s3", "bucket", "")),
        ("gs://my.bucket/a/b", ObjectUrl("gs", "my.bucket", "a/b")),
        ("az://container/year=2026/", ObjectUrl("az", "container", "year=2026")),
    ],
)
def test_a_url_names_a_bucket_and_a_prefix(text: str, expected: ObjectUrl) -> None:
    assert as_state_dir(text) == expected
    assert str(expected) == text.rstrip("/")


def test_a_path_stays_a_path() -> None:
    assert as_state_dir("state/here") == as_state_dir(Path("state/here")) == Path("state/here")
    assert not is_url("state/here")


def test_a_url_that_was_made_a_path_is_read_as_the_url_it_was() -> None:
    assert as_state_dir(Path("s3://bucket/a")) == ObjectUrl("s3", "bucket", "a")


def test_a_name_is_appended_to_a_prefix() -> None:
    assert str(ObjectUrl.parse("s3://bucket/a") / "job") == "s3://bucket/a/job"
    assert str(ObjectUrl.parse("s3://bucket") / "job") == "s3://bucket/job"


@pytest.mark.parametrize(
    "text",
    [
        f"s3://key:{SECRET}@bucket/a",
        f"s3://bucket/a?X-Amz-Signature={SECRET}",
        f"az://container/a#{SECRET}",
        f"https://user:{SECRET}@example.com/a",
    ],
)
def test_a_url_that_may_hold_a_secret_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        as_state_dir(text)

    assert SECRET not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(
    "text", ["s3://", "s3:///a", "s3://Bucket/a", "s3://b/../a", "s3://b/a//c", "s3://b/ä"]
)
def test_a_url_without_a_usable_place_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        as_state_dir(text)
