"""A server that is missing is said loudly, and is a failure where servers are required."""

from __future__ import annotations

import pytest

from tests.servers import postgres, prepare, required
from tests.servers.kafka import broker
from tests.servers.required import VARIABLE, unavailable


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be on a machine without any program."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(postgres, "PLACES", ())


@pytest.mark.parametrize("value", [None, "", "0"])
def test_test_without_its_server_is_skipped_and_says_why(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)

    with pytest.raises(pytest.skip.Exception, match="install it"):
        unavailable("install it")


@pytest.mark.usefixtures("bare")
def test_servers_that_are_missing_fail_the_tests_where_they_are_required(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, "1")

    with pytest.raises(pytest.fail.Exception, match=f"apt-get install postgresql.*{VARIABLE}"):
        postgres.running().__enter__()
    with pytest.raises(pytest.fail.Exception, match="java and mvn.*apt-get install"):
        broker.skip_without_tools()


@pytest.mark.usefixtures("bare")
def test_preparation_says_what_is_missing_and_how_to_get_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert prepare.main() == 1

    said = capsys.readouterr().out
    assert said.splitlines() == [
        f"java is missing: {broker.HOW}",
        f"mvn is missing: {broker.HOW}",
        f"initdb is missing: {postgres.HOW_TO_GET_IT}",
    ]


def test_all_that_is_required_is_here() -> None:
    assert not required.is_required() or prepare.missing() == {}
