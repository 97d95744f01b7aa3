"""The pytest plugin, tried by a pytest of its own."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

PIPELINE = """
import pytest
from flowsnap import Pipeline
from flowsnap.connectors import Collect

def make():
    pipeline = Pipeline("numbers")
    numbers = pipeline.from_iterable([], name="numbers")
    numbers.map(lambda n: n + 1, name="next").sink(Collect(), name="out")
    return pipeline
"""


def run(pytester: pytest.Pytester, text: str, *options: str) -> pytest.RunResult:
    """Run pytest on a test file, with the plugin if it is not installed as one."""
    pytester.makepyfile(PIPELINE + text)
    is_installed = bool(entry_points(group="pytest11", name="flowsnap"))
    plugin = () if is_installed else ("-p", "flowsnap.pytest_plugin")
    return pytester.runpytest("-p", "no:cacheprovider", "-p", "no:xdist", *plugin, *options)


def test_fixture_makes_harnesses_and_closes_them(pytester: pytest.Pytester) -> None:
    text = """
made = []

def test_one(flowsnap_harness):
    made.append(flowsnap_harness(make()))
    made.append(flowsnap_harness(make(), parallelism=2))
    for harness in made:
        harness.push("numbers", 1)
        assert harness.output("out") == [2]

def test_two():
    assert ["closed" in repr(harness) for harness in made] == [True, True]
"""

    run(pytester, text).assert_outcomes(passed=2)


def test_failure_says_how_the_harness_stood(pytester: pytest.Pytester) -> None:
    text = """
def test_one(flowsnap_harness):
    harness = flowsnap_harness(make())
    harness.push("numbers", 1)
    assert harness.output("out") == [3]
"""

    result = run(pytester, text)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*flowsnap*", "<Harness 'numbers': running*", "*1 pending: 2"])


def test_marker_gives_every_seed_to_the_test(pytester: pytest.Pytester) -> None:
    text = """
@pytest.mark.flowsnap_seeds(5)
def test_one(seed):
    assert seed in range(5)

@pytest.mark.flowsnap_seeds(seeds=[780, 99])
def test_two(seed):
    assert seed in (780, 99)
"""

    run(pytester, text, "--strict-markers").assert_outcomes(passed=7)


def test_failing_seed_says_how_it_is_replayed(pytester: pytest.Pytester) -> None:
    text = """
@pytest.mark.flowsnap_seeds(3)
def test_one(seed):
    assert seed != 2
"""

    result = run(pytester, text)

    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["replay: pytest *::test_one --flowsnap-seed 2"])


def test_one_seed_is_replayed(pytester: pytest.Pytester) -> None:
    text = """
@pytest.mark.flowsnap_seeds(3)
def test_one(seed):
    assert seed == 780

def test_other():
    pass
"""

    run(pytester, text, "--flowsnap-seed", "780").assert_outcomes(passed=2)


def test_marked_test_without_the_argument_is_explained(pytester: pytest.Pytester) -> None:
    text = """
@pytest.mark.flowsnap_seeds(3)
def test_one():
    pass
"""

    result = run(pytester, text)

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*is marked flowsnap_seeds and takes no 'seed'*"])


def test_own_fixture_named_seed_is_left_alone(pytester: pytest.Pytester) -> None:
    text = """
@pytest.fixture
def seed():
    return "mine"

def test_one(seed):
    assert seed == "mine"
"""

    run(pytester, text, "--flowsnap-seed", "1").assert_outcomes(passed=1)


def test_plugin_imports_nothing_of_flowsnap() -> None:
    code = "import sys, flowsnap.pytest_plugin; print([n for n in sys.modules if 'flowsnap' in n])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "['flowsnap', 'flowsnap.pytest_plugin']"


def test_kit_is_imported_when_it_is_used() -> None:
    code = (
        "import sys, flowsnap.testing as t; "
        "before = {n for n in sys.modules if n.startswith('flowsnap.testing.')}; "
        "import flowsnap.testing.simulate; print(before, t.simulate.__module__, t.Harness.__name__)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set() flowsnap.testing.kit_simulation Harness"


def test_every_public_name_is_there() -> None:
    import flowsnap.testing

    assert all(getattr(flowsnap.testing, name) is not None for name in flowsnap.testing.__all__)
    assert {"Harness", "simulate"} <= set(dir(flowsnap.testing))
    with pytest.raises(AttributeError, match="no attribute 'harnes'"):
        flowsnap.testing.harnes  # noqa: B018
