from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from flowsnap.api.settings import job_config
from flowsnap.cli.arguments import convert_arguments
from flowsnap.cli.pairs import parse_pairs, parse_settings
from flowsnap.cli.target import load
from flowsnap.config import Restart
from flowsnap.errors import ConfigError

JOB = """
from dataclasses import dataclass
from flowsnap import Pipeline
from flowsnap.connectors import Discard

@dataclass
class Order:
    amount: int

def totals(name: str, shops: int = 3) -> Pipeline:
    made = Pipeline(name)
    made.from_iterable(range(shops)).map(Order).sink(Discard())
    return made

pipeline = totals("orders")
number = 7

def wrong() -> Pipeline:
    return 3

def broken() -> Pipeline:
    raise KeyError("shop")
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Path]]:
    """Write a module into the current directory; everything it leaves in sys goes afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write_module(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    yield write_module
    for name in set(sys.modules) - before:
        del sys.modules[name]


def told(error: pytest.ExceptionInfo[ConfigError]) -> str:
    return "\n".join([str(error.value), *getattr(error.value, "__notes__", [])])


@pytest.mark.parametrize("target", ["shop_job.py", "shop_job", "./shop_job.py:pipeline"])
def test_a_pipeline_is_found_by_file_and_by_module(
    write: Callable[[str, str], Path], target: str
) -> None:
    write("shop_job.py", JOB)

    assert load(target, {}).name == "orders"


def test_what_a_file_defines_travels_to_the_workers_by_value(
    write: Callable[[str, str], Path],
) -> None:
    write("jobs/shop_job.py", JOB)

    loaded = load("jobs/shop_job.py", {})

    assert "shop_job" in loaded.definition(1).modules
    assert sys.modules["shop_job"].Order.__module__ == "shop_job"


def test_a_file_imports_its_neighbours(write: Callable[[str, str], Path]) -> None:
    write("jobs/shop_names.py", "NAME = 'neighbour'")
    write("jobs/shop_job.py", JOB.replace('"orders"', "__import__('shop_names').NAME"))

    assert load("jobs/shop_job.py", {}).name == "neighbour"


def test_a_function_makes_the_pipeline_from_converted_arguments(
    write: Callable[[str, str], Path],
) -> None:
    write("shop_job.py", JOB)

    assert load("shop_job.py:totals", {"name": "eu", "shops": "5"}).name == "eu"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("shop_jobs.py", ["there is no file shop_jobs.py", "did you mean shop_job.py?"]),
        ("shop_nowhere", ["there is no module 'shop_nowhere'", "shop_job.py"]),
        ("shop_job.deep", ["there is no module 'shop_job.deep'"]),
        ("", ["cannot be imported"]),
        ("shop_job.py:total", ["has no 'total'", "did you mean shop_job.py:totals?"]),
        ("shop_job.py:xyz", ["it has shop_job.py:totals, shop_job.py:pipeline"]),
        ("shop_job.py:number", ["something of type int is no pipeline"]),
        ("shop_job.py:wrong", ["wrong() returned something of type int, not a Pipeline"]),
        ("shop_job.py:broken", ["broken() failed: KeyError: 'shop'"]),
        (
            "shop_job.py:totals",
            ["parameter 'name' is missing", "totals(name: str, shops: int = 3)"],
        ),
    ],
)
def test_a_wrong_target_is_refused_with_what_could_be_meant(
    write: Callable[[str, str], Path], target: str, expected: list[str]
) -> None:
    write("shop_job.py", JOB)

    with pytest.raises(ConfigError) as error:
        load(target, {})

    assert [text for text in expected if text not in told(error)] == []


def test_arguments_for_a_pipeline_that_is_already_made_are_refused(
    write: Callable[[str, str], Path],
) -> None:
    write("shop_job.py", JOB)

    with pytest.raises(ConfigError, match="takes no arguments"):
        load("shop_job.py", {"shops": "3"})


def test_a_module_without_any_pipeline_is_said_to_have_none(
    write: Callable[[str, str], Path],
) -> None:
    write("shop_job.py", "x = 1")

    with pytest.raises(ConfigError) as error:
        load("shop_job.py", {})

    assert "it has no Pipeline" in told(error)


def test_an_error_in_the_users_module_keeps_its_cause(write: Callable[[str, str], Path]) -> None:
    write("shop_job.py", "import shop_missing")

    for target in ("shop_job.py", "shop_job"):
        with pytest.raises(ConfigError, match="No module named 'shop_missing'") as error:
            load(target, {})
        assert isinstance(error.value.__cause__, ModuleNotFoundError)
        assert "shop_job" not in sys.modules


def test_a_file_named_like_a_loaded_module_is_refused_and_leaves_it_alone(
    write: Callable[[str, str], Path],
) -> None:
    import json

    write("json.py", JOB)

    with pytest.raises(ConfigError, match=r"json\.py has the name of the module json"):
        load("json.py", {})
    assert sys.modules["json"] is json


def every_kind(  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917 - one of each
    text: str,
    number: int,
    share: float,
    is_on: bool,
    place: Path,
    maybe: Optional[int] = None,  # noqa: UP045 - the old spelling must work too
    either: int | str = 0,
    untyped=2.5,
    **rest: Any,
) -> None:
    """Take one parameter of each kind."""


def test_arguments_are_converted_by_their_annotations() -> None:
    texts = {"text": "7", "number": "7", "share": "7", "is_on": "Yes", "place": "a/b"}
    more = {"maybe": "8", "either": "nine", "untyped": "10"}

    assert convert_arguments(every_kind, texts | more) == {
        "text": "7",
        "number": 7,
        "share": 7.0,
        "is_on": True,
        "place": Path("a/b"),
        "maybe": 8,
        "either": "nine",
        "untyped": 10.0,
    }


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("number", "7.5", "parameter 'number': '7.5' is not an int"),
        ("share", "x", "parameter 'share': 'x' is not a float"),
        ("is_on", "maybe", "parameter 'is_on': 'maybe' is not a bool (true or false)"),
        ("maybe", "x", "parameter 'maybe': 'x' is not an int"),
        ("numbre", "7", "there is no parameter 'numbre'"),
        ("rest", "7", "there is no parameter 'rest'"),
    ],
)
def test_an_argument_that_does_not_fit_is_named_with_what_was_expected(
    name: str, text: str, message: str
) -> None:
    good = {"text": "7", "number": "7", "share": "7", "is_on": "no", "place": "a"}

    with pytest.raises(ConfigError) as error:
        convert_arguments(every_kind, good | {name: text})

    assert str(error.value) == message
    assert "the function is every_kind(text: str, number: int, share: float" in told(error)


def test_neither_a_secret_argument_nor_a_secret_default_is_shown() -> None:
    def make(db_password: int, api_token: str = "hunter2") -> None: ...

    with pytest.raises(ConfigError) as error:
        convert_arguments(make, {"db_password": "swordfish"})

    assert "swordfish" not in told(error)
    assert "hunter2" not in told(error)
    assert "'db_password': *** is not an int" in told(error)


def test_pairs_keep_everything_after_the_first_equals_sign() -> None:
    assert parse_pairs(("a=b=c", "d="), "--arg") == {"a": "b=c", "d": ""}


@pytest.mark.parametrize("pairs", [("a",), ("=b",), ("a=1", "a=2")])
def test_what_is_no_pair_or_comes_twice_is_refused(pairs: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="--set"):
        parse_pairs(pairs, "--set")


def test_settings_are_read_from_text() -> None:
    config = job_config(
        parse_settings(
            {
                "state_memory": "64MB",
                "batch": "4096",
                "stall_timeout": "5m",
                "checkpoints_retained": "7",
                "checkpoint_mode": "at-least-once",
            }
        )
    )

    assert (config.state_memory_bytes, config.batch_bytes) == (64 * 2**20, 4096)
    assert (config.stall_timeout_ms, config.checkpoints_retained) == (300_000, 7)
    assert config.checkpoint_mode == "at-least-once"


def test_the_restart_strategy_is_a_group_of_settings() -> None:
    texts = {"restart": "fixed", "restart.delay": "2s", "restart.attempts_max": "3"}

    assert job_config(parse_settings(texts)).restart == Restart(
        strategy="fixed", delay_ms=2000, attempts_max=3
    )


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("restart", "often", "'often' does not fit"),
        ("restart.delay", "2", "is not a duration"),
        ("restart.dealy", "2s", "there is no setting 'restart.dealy'"),
        ("checkpoints_retained", "many", "'many' does not fit"),
        ("checkpoints_retained", "0", "less than 1"),
        ("state_memry", "1MB", "there is no setting 'state_memry'"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(key: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        job_config(parse_settings({key: text}))
