"""Which objects a URL means, and what each is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowsnap.connectors import JsonLinesFiles, TextFiles
from flowsnap.connectors.files import as_paths, find_files
from flowsnap.errors import ConfigError
from tests.places import BucketPlace, in_memory

NAMES = [
    "a.txt", "a.txt.tmp", "b.log", "empty.txt", ".hidden.txt", "x/a.txt", "x/y/a.txt", "x/.z/a.txt",
    "xx/b.txt", "=ü %2F[1]/c d.txt",
]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> BucketPlace:
    made = in_memory(tmp_path)
    for name in NAMES:
        made.write(name, b"" if name == "empty.txt" else name.encode())
    return made


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("", ["=ü %2F[1]/c d.txt", "a.txt", "b.log", "x/a.txt", "x/y/a.txt", "xx/b.txt"]),
        ("x", ["x/a.txt", "x/y/a.txt"]),
        ("x/", ["x/a.txt", "x/y/a.txt"]),
        ("a.txt", ["a.txt"]),
        ("empty.txt", ["empty.txt"]),
        ("*.txt", ["a.txt"]),
        ("*.tmp", ["a.txt.tmp"]),
        (".h*", [".hidden.txt"]),
        ("?/a.*", ["x/a.txt"]),
        ("[ab].*", ["a.txt", "b.log"]),
        ("*/*.txt", ["=ü %2F[1]/c d.txt", "x/a.txt", "xx/b.txt"]),
        ("**/a.txt", ["a.txt", "x/a.txt", "x/y/a.txt"]),
        ("x/**", ["x/a.txt", "x/y/a.txt"]),
        ("x/.z/*", ["x/.z/a.txt"]),
    ],
)
def test_url_means_an_object_a_directory_or_a_glob_as_a_path_does(
    place: BucketPlace, path: str, found: list[str]
) -> None:
    files = find_files([f"{place.path}/{path}"])

    assert [file.path.removeprefix(f"{place.path}/") for file in files] == found
    assert all(file.version for file in files)


def test_names_do_not_tell_the_bucket_so_that_the_data_may_be_moved(place: BucketPlace) -> None:
    files = find_files([f"{place.path}/x", f"{place.path}/xx/*.txt", f"{place.path}/a.txt"])

    assert [file.name for file in files] == ["x/a.txt", "x/y/a.txt", "xx/b.txt", "a.txt"]


def test_objects_and_files_may_be_read_together(place: BucketPlace, tmp_path: Path) -> None:
    (tmp_path / "local.txt").write_text("here")

    files = find_files([str(tmp_path / "local.txt"), f"{place.path}/a.txt"])

    assert [(file.name, file.version is None) for file in files] == [
        ("local.txt", True),
        ("a.txt", False),
    ]


@pytest.mark.parametrize("path", ["nope", "nope/*.txt", "a.tx", "a.txt/b"])
def test_url_that_means_nothing_is_refused_when_the_job_is_submitted(
    place: BucketPlace, path: str
) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        find_files([f"{place.path}/{path}"])


def test_url_that_was_made_a_path_is_read_as_the_url_it_was() -> None:
    assert as_paths(Path("s3://bucket/logs")) == ("s3://bucket/logs",)


@pytest.mark.parametrize("url", ["ftp://host/a", "s3://Bucket/a", "s3://b/a//c", "s3://b/../c"])
def test_url_that_cannot_be_used_is_refused_where_it_is_written(url: str) -> None:
    with pytest.raises(ConfigError):
        TextFiles(url)


@pytest.mark.parametrize("url", ["s3://key:canary@bucket/a", "s3://b/a?X-Amz-Signature=canary"])
def test_url_that_may_hold_a_secret_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigError, match="more than a bucket and a path") as raised:
        JsonLinesFiles(url)

    assert "canary" not in str(raised.value)
