from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import flowsnap
from flowsnap.errors import ConfigError
from flowsnap.failpoint import POINTS, VARIABLE, arm, arm_from_environment, failpoint

ROOT = Path(flowsnap.__file__).parent
PASSES = {"failpoint", "pass_failpoint"}


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    arm("")


def fires(name: str) -> bool:
    try:
        failpoint(name)
    except OSError:
        return True
    return False


def test_an_unarmed_failpoint_does_nothing() -> None:
    arm("jm.ack=raise")

    assert not fires("src.read")


def test_a_failpoint_fires_once_at_the_wanted_passage() -> None:
    arm("src.read=raise@3")

    assert [fires("src.read") for _ in range(5)] == [False, False, True, False, False]


def test_several_failpoints_are_armed_at_once() -> None:
    arm("src.read=raise; jm.ack=raise@2 ;")

    assert [fires("src.read"), fires("jm.ack"), fires("jm.ack")] == [True, False, True]


def test_arming_again_forgets_what_was_armed() -> None:
    arm("src.read=raise")

    arm("jm.ack=raise")

    assert not fires("src.read")


def test_a_failpoint_of_another_worker_does_not_fire_and_its_passages_do_not_count() -> None:
    arm("src.read=raise,worker=1", worker=0)
    assert not fires("src.read")

    arm("src.read=raise@2,worker=1", worker=1)
    assert [fires("src.read"), fires("src.read")] == [False, True]


def test_a_failpoint_of_the_job_manager_is_that_of_worker_minus_1() -> None:
    arm("jm.ack=raise,worker=-1")

    assert fires("jm.ack")


@pytest.mark.parametrize(
    ("text", "number"), [("raise", 5), ("raise:OSError(28)", 28), ("raise:13", 13)]
)
def test_raise_raises_an_os_error_with_a_number(text: str, number: int) -> None:
    arm(f"src.read={text}")

    with pytest.raises(OSError, match=r"failpoint src\.read") as caught:
        failpoint("src.read")
    assert caught.value.errno == number


def test_delay_waits_for_so_many_ms(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    arm("src.read=delay:250;jm.ack=delay")

    failpoint("src.read")
    failpoint("jm.ack")

    assert waited == [0.25, 0.1]


@pytest.mark.parametrize(("text", "code"), [("kill", -9), ("exit:7", 7), ("exit", 1)])
def test_a_process_dies_as_it_is_told(text: str, code: int) -> None:
    script = (
        "from flowsnap.failpoint import arm_from_environment, failpoint;"
        "arm_from_environment(); failpoint('src.read'); print('alive')"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, VARIABLE: f"src.read={text}"},
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert (ran.returncode, ran.stdout) == (code, b"")


def test_stop_stops_the_process_and_hang_never_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    signals: list[int] = []
    monkeypatch.setattr("os.kill", lambda pid, number: signals.append(number))
    arm("src.read=stop")
    failpoint("src.read")
    assert signals == [signal.SIGSTOP]

    class Woken(Exception):
        pass

    monkeypatch.setattr("time.sleep", lambda _: (_ for _ in ()).throw(Woken))
    arm("src.read=hang")
    with pytest.raises(Woken):
        failpoint("src.read")


@pytest.mark.parametrize(
    "text",
    [
        "src.read",
        "src.read=explode",
        "no.such_point=kill",
        "src.read=kill@",
        "src.read=kill@two",
        "src.read=kill,worker=a",
        "src.read=kill,jm.ack=kill",
        "=kill",
    ],
)
def test_what_does_not_parse_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not NAME=ACTION"):
        arm(text)


def test_the_environment_arms_and_its_absence_disarms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "src.read=raise")
    arm_from_environment()
    assert fires("src.read")

    monkeypatch.setenv(VARIABLE, "src.read=raise")
    arm_from_environment()
    monkeypatch.delenv(VARIABLE)
    arm_from_environment()
    assert not fires("src.read")


def passed_in_the_source() -> set[str]:
    """Return every literal that is handed to a failpoint, and those of tables of them."""
    found: set[str] = set()
    for path in ROOT.rglob("*.py"):
        if path != ROOT / "failpoint.py":
            found |= passed_in(ast.parse(path.read_text(encoding="utf-8")))
    return found


def passed_in(tree: ast.Module) -> set[str]:
    found: set[object] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=str(point))]):
                found |= {point} if name in PASSES else set()
            case ast.AnnAssign(target=ast.Name(id="_FAILPOINTS"), value=ast.Dict(values=values)):
                found |= {one.value for one in values if isinstance(one, ast.Constant)}
            case _:
                pass
    return {str(point) for point in found}


def test_every_failpoint_is_passed_somewhere_and_every_passed_one_is_known() -> None:
    assert passed_in_the_source() == POINTS
