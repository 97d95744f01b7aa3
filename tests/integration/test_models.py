"""The models of the protocol: the list of what is asked of them, and one of them asked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from models import check
from models.runs import RUNS

MODELS = Path(check.__file__).parent
NAMES = sorted(path.stem for path in MODELS.glob("*.pml"))


def text(model: str) -> str:
    return (MODELS / f"{model}.pml").read_text(encoding="utf-8")


def defined(model: str) -> set[str]:
    return {name for run in RUNS if run.model == model for name in run.defines}


@pytest.fixture
def _spin() -> None:
    if missing := check.missing_tools():
        pytest.skip(f"{' and '.join(missing)} not found: {check.HOW_TO_GET_IT}")


def test_every_model_is_asked_whether_something_holds() -> None:
    assert {run.model for run in RUNS if not run.refuted_by} == set(NAMES)


@pytest.mark.parametrize("model", NAMES)
def test_every_situation_of_a_model_is_shown_to_occur(model: str) -> None:
    situations = set(re.findall(r"REACHED\((\w+)\)", text(model)))

    assert situations
    assert {f"REACH={name}" for name in situations} == {
        name for name in defined(model) if name.startswith("REACH=")
    }


@pytest.mark.parametrize("model", NAMES)
def test_every_broken_variant_of_a_model_is_tried(model: str) -> None:
    variants = set(re.findall(r"#if(?:n?def) (BUG_\w+)", text(model)))

    assert variants
    assert variants == {name for name in defined(model) if name.startswith("BUG_")}


@pytest.mark.parametrize("model", NAMES)
def test_every_formula_of_a_model_is_checked(model: str) -> None:
    formulas = set(re.findall(r"^ltl (\w+)", text(model), re.MULTILINE))

    assert formulas == {run.ltl for run in RUNS if run.model == model and run.ltl}


@pytest.mark.usefixtures("_spin")
def test_the_feedback_log_holds_every_token_once(tmp_path: Path) -> None:
    [run] = check.chosen(["feedback", "hold every token once"])

    answer = check.ask(run, tmp_path / "run")

    assert answer.problem == ""
    assert answer.states > 10_000


@pytest.mark.usefixtures("_spin")
def test_a_ring_that_does_not_spill_locks_up(tmp_path: Path) -> None:
    run = check.chosen(["feedback", "broken: BUG_NO_SPILL"])[0]

    answer = check.ask(run, tmp_path / "run")

    assert check.verdict(run, answer) == (True, "refuted, as it must be")


def test_a_property_that_fails_is_told_apart_from_one_that_holds() -> None:
    [run] = check.chosen(["feedback", "hold every token once"])

    is_right, told = check.verdict(run, check.Answer(7, 0.1, "assertion violated"))

    assert not is_right
    assert told == "FAILS: assertion violated"


def test_a_broken_variant_must_be_refuted_for_the_right_reason() -> None:
    run = check.chosen(["feedback", "broken: BUG_NO_SPILL"])[0]

    assert not check.verdict(run, check.Answer(7, 0.1, ""))[0]
    assert not check.verdict(run, check.Answer(7, 0.1, "assertion violated in_log[at]"))[0]


@pytest.mark.parametrize(("arguments", "code"), [([], 0), (["--required"], 1)])
def test_without_spin_the_check_is_skipped_unless_it_is_required(
    arguments: list[str],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", "")

    assert check.main(arguments) == code
    assert check.HOW_TO_GET_IT in capsys.readouterr().out
