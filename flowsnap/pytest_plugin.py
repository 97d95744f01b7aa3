"""The pytest plugin of flowsnap: a fixture, a marker, and an option. See ``docs/testing.md``.

It imports nothing of the engine until a test asks for it: it is loaded at the start of every pytest
in this environment, whether that tests a pipeline or not.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from flowsnap import Pipeline
    from flowsnap.testing import Harness

MARKER = "flowsnap_seeds"
ARGUMENT = "seed"
SEEDS = 100
_HARNESSES: pytest.StashKey[list[Harness]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that replays one seed."""
    group = parser.getgroup("flowsnap", "tests of flowsnap pipelines")
    group.addoption(
        "--flowsnap-seed",
        type=int,
        metavar="N",
        help=f"run tests marked {MARKER} with this seed alone",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(seeds={SEEDS}): run the test for each of so many seeds, or for those given; "
        f"it takes them as its argument {ARGUMENT!r}",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a marked test its seeds."""
    marker = metafunc.definition.get_closest_marker(MARKER)
    if marker is None:
        return
    if ARGUMENT not in metafunc.fixturenames:
        pytest.fail(
            f"{metafunc.definition.nodeid} is marked {MARKER} and takes no {ARGUMENT!r}; "
            f"write def {metafunc.definition.name}({ARGUMENT}): ...",
            pytrace=False,
        )
    replayed = metafunc.config.getoption("--flowsnap-seed")
    metafunc.parametrize(ARGUMENT, _seeds(marker) if replayed is None else [replayed])


def _seeds(marker: pytest.Mark) -> Iterable[int]:
    given = marker.args[0] if marker.args else marker.kwargs.get("seeds", SEEDS)
    return range(given) if isinstance(given, int) else list(given)


@pytest.fixture
def flowsnap_harness(
    request: pytest.FixtureRequest,
) -> Generator[Callable[..., Harness], None, None]:
    """Return a function that makes a ``Harness``, which is closed at the end of the test."""
    from flowsnap.testing import Harness  # noqa: PLC0415 - only a test that uses it pays for it

    made = request.node.stash.setdefault(_HARNESSES, [])
    with ExitStack() as stack:

        def make(pipeline: Pipeline, **settings: Any) -> Harness:
            harness = stack.enter_context(Harness(pipeline, **settings))
            made.append(harness)
            return harness

        yield make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say beside a failure how its harnesses stood, and how to replay its seed."""
    report = yield
    if report.when != "call" or not report.failed:
        return report
    lines = [line for harness in item.stash.get(_HARNESSES, []) for line in harness.describe()]
    seed = getattr(item, "callspec", None) and item.callspec.params.get(ARGUMENT)  # type: ignore[attr-defined]
    if seed is not None and item.get_closest_marker(MARKER) is not None:
        test = item.nodeid.partition("[")[0]
        lines.append(f"replay: pytest {test} --flowsnap-seed {seed}")
    if lines:
        report.sections.append(("flowsnap", "\n".join(lines)))
    return report
