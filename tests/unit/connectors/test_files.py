from __future__ import annotations

import os
from pathlib import Path

import pytest

from flowsnap.connectors.files import as_paths, find_files
from flowsnap.errors import ConfigError


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def names(*paths: Path | str) -> list[str]:
    return [file.name for file in find_files(as_paths([os.fspath(path) for path in paths]))]


def test_directory_means_all_regular_files_below_it_sorted(tmp_path: Path) -> None:
    touch(tmp_path, "books/b.txt", "books/a.txt", "books/more/c.txt")

    assert names(tmp_path / "books") == ["books/a.txt", "books/b.txt", "books/more/c.txt"]


def test_hidden_and_temporary_files_of_a_directory_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.txt", "in/.part.jsonl", "in/b.tmp", "in/.git/c.txt")

    assert names(tmp_path / "in") == ["in/a.txt"]


def test_hidden_file_that_is_named_outright_is_read(tmp_path: Path) -> None:
    touch(tmp_path, ".profile")

    assert names(tmp_path / ".profile") == [".profile"]


def test_glob_crosses_directories_with_two_stars_and_skips_temporary_files(tmp_path: Path) -> None:
    touch(tmp_path, "logs/a.log", "logs/x/y/b.log", "logs/c.txt", "logs/x/d.log.tmp")

    assert names(tmp_path / "logs/**/*.log*") == ["logs/a.log", "logs/x/y/b.log"]


def test_glob_that_asks_for_temporary_files_gets_them(tmp_path: Path) -> None:
    touch(tmp_path, "logs/a.tmp")

    assert names(tmp_path / "logs/*.tmp") == ["logs/a.tmp"]


def test_relative_glob_is_taken_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "data[1]/a.txt", "data[1]/b.txt")
    monkeypatch.chdir(tmp_path / "data[1]")

    assert names("*.txt") == ["data[1]/a.txt", "data[1]/b.txt"]


def test_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    touch(tmp_path, "a[1].txt", "a1.txt")

    assert names(tmp_path / "a[1].txt") == ["a[1].txt"]


def test_file_reached_by_two_paths_is_read_once(tmp_path: Path) -> None:
    touch(tmp_path, "books/a.txt", "books/b.txt")

    assert names(tmp_path / "books", tmp_path / "books/a.txt") == ["books/a.txt", "books/b.txt"]


def test_names_stay_when_the_data_is_moved(tmp_path: Path) -> None:
    touch(tmp_path, "here/books/a.txt", "there/books/a.txt")

    assert names(tmp_path / "here/books") == names(tmp_path / "there/books")


def test_bases_of_the_same_name_are_told_apart_by_their_whole_path(tmp_path: Path) -> None:
    touch(tmp_path, "one/logs/a.txt", "two/logs/a.txt")

    found = names(tmp_path / "one/logs", tmp_path / "two/logs")

    assert found == [f"{tmp_path}/one/logs/a.txt", f"{tmp_path}/two/logs/a.txt"]


def test_missing_path_is_refused_with_the_directory_it_was_looked_up_in(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.txt does not exist") as caught:
        names(tmp_path / "nowhere.txt")
    assert os.getcwd() in caught.value.__notes__[0]


def test_glob_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file matches"):
        names(tmp_path / "*.txt")


def test_directory_without_files_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, ".hidden")

    with pytest.raises(ConfigError, match="holds no files"):
        names(tmp_path)


def test_pipe_is_refused_because_it_cannot_be_read_again(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(ConfigError, match="not a regular file"):
        names(tmp_path / "pipe")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "secret")
    (tmp_path / "secret").chmod(0)

    with pytest.raises(ConfigError, match="secret cannot be read"):
        names(tmp_path / "secret")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_directory_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "in/locked/a.txt")
    (tmp_path / "in/locked").chmod(0)

    with pytest.raises(ConfigError, match="locked cannot be listed"):
        names(tmp_path / "in")
    (tmp_path / "in/locked").chmod(0o700)


@pytest.mark.parametrize("path", [[], "", b"bytes.txt", 7, ["a.txt", 7], None])
def test_what_is_no_path_is_refused(path: object) -> None:
    with pytest.raises(ConfigError, match="not a path"):
        as_paths(path)  # type: ignore[arg-type]  # the point of the test
