from __future__ import annotations

import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import flowsnap
from flowsnap import ConfigError, Pipeline, Restart
from flowsnap.api.settings import SETTINGS, job_config
from flowsnap.config import JobConfig
from flowsnap.connectors import Collect, Discard, Generator, JsonLinesFiles
from flowsnap.core.graph import OperatorKind
from flowsnap.core.ids import OperatorId
from flowsnap.examples import copy_lines, running_totals, wordcount
from flowsnap.operators import Map
from flowsnap.runtime.definition import pickle_definition
from flowsnap.serialize import code_sha256, load_code


def small() -> Pipeline:
    job = Pipeline("job")
    job.from_iterable([1, 2], name="numbers").map(abs, name="abs").sink(Discard(), name="end")
    return job


def test_definition_has_the_template_of_every_operator() -> None:
    definition = small().definition()

    assert [operator.type for operator in definition.graph.operators] == [
        "FromIterable",
        "Map",
        "Discard",
    ]
    assert list(definition.code) == [operator.name for operator in definition.graph.operators]
    assert isinstance(definition.code[OperatorId("abs")], Map)


def test_definition_can_be_made_for_any_parallelism() -> None:
    job = small()

    widths = [[o.parallelism for o in job.definition(n).graph.operators] for n in (1, 3)]

    assert widths == [[1, 1, 1], [1, 3, 3]]


def test_connector_that_is_source_and_sink_is_what_it_is_used_for(tmp_path: Path) -> None:
    job = Pipeline("job")
    job.source(JsonLinesFiles(tmp_path)).sink(JsonLinesFiles(tmp_path))

    kinds = [operator.kind for operator in job.definition().graph.operators]

    assert kinds == [OperatorKind.SOURCE, OperatorKind.SINK]


def test_modules_of_a_file_travel_beside_the_script() -> None:
    job = small()
    job.modules = ("my_file",)

    assert job.definition().modules == ("__main__", "my_file")


def test_templates_survive_the_journey_to_a_worker() -> None:
    factor = 3
    job = Pipeline("job")
    job.from_iterable([1]).map(lambda n: n * factor, name="times").sink(Collect())

    blob = pickle_definition(job.definition())

    assert load_code(blob, code_sha256(blob))["times"].fn(5) == 15


def test_operator_that_cannot_be_pickled_is_named() -> None:
    lock = threading.Lock()
    job = Pipeline("job")
    good = job.from_iterable([1]).map(abs, name="good")
    good.map(lambda n: (n, lock), name="bad").sink(Discard())

    with pytest.raises(ConfigError, match=r"operator 'bad' cannot be pickled: .*lock") as caught:
        pickle_definition(job.definition())

    assert "open()" in caught.value.__notes__[0]


def test_pipeline_without_steps_is_refused() -> None:
    with pytest.raises(ConfigError, match="empty"):
        Pipeline("job").definition()


def test_stream_that_is_never_sunk_is_an_error_that_names_it_and_its_place() -> None:
    job = small()
    job.from_iterable([3], name="others").map(abs, name="lost")

    with pytest.raises(ConfigError, match=rf"'lost' \(Map, drawn at .*{Path(__file__).name}:\d+\)"):
        job.definition()


@pytest.mark.parametrize("name", ["", "a job", "../job", None])
def test_malformed_job_name_is_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match="pipeline"):
        Pipeline(name)


def test_parallelism_above_the_number_of_key_groups_is_refused() -> None:
    job = Pipeline("job", max_parallelism=2)
    job.from_iterable([1]).map(abs).sink(Discard())

    with pytest.raises(ConfigError, match="parallelism 3"):
        job.definition(3)


def test_final_output_of_an_endless_source_is_refused() -> None:
    job = Pipeline("job")
    ends = job.from_iterable([1])
    endless = job.source(Generator(abs), name="endless")
    ends.union(endless).map(abs).key_by().count(emit="final", name="n").sink(Discard())

    with pytest.raises(ConfigError, match="'n' emits at the end of input, and 'endless' never"):
        job.definition()


def test_what_is_no_source_is_refused() -> None:
    with pytest.raises(ConfigError, match="is not a source"):
        Pipeline("job").source([1, 2])  # type: ignore[arg-type]  # what a user may pass


def test_settings_are_written_without_their_unit() -> None:
    config = job_config(
        {
            "workers": 2,
            "checkpoint_interval": "2s",
            "checkpoint_timeout": timedelta(minutes=1),
            "checkpoint_pause_min": "5ms",
            "state_memory": "64MB",
            "batch": 2048,
            "checkpoint_mode": "at-least-once",
            "restart": Restart(strategy="none"),
        }
    )

    assert config == JobConfig(
        workers=2,
        checkpoint_interval_ms=2_000,
        checkpoint_timeout_ms=60_000,
        checkpoint_pause_ms_min=5,
        state_memory_bytes=64 * 2**20,
        batch_bytes=2048,
        checkpoint_mode="at-least-once",
        restart=Restart(strategy="none"),
    )


def test_every_field_of_the_configuration_has_a_setting() -> None:
    assert sorted(SETTINGS.values()) == sorted(JobConfig.__struct_fields__)
    assert not [name for name in SETTINGS if "_ms" in name or "_bytes" in name]


def test_unknown_setting_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match="'checkpoint_timeot'") as caught:
        small().start(checkpoint_timeot="1m")

    assert caught.value.__notes__ == ["did you mean 'checkpoint_timeout'?"]


def test_unknown_setting_like_no_other_is_refused_with_all_of_them() -> None:
    with pytest.raises(ConfigError) as caught:
        small().run(zzz=1)

    assert "workers" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"workers": -1},
        {"workers": "two"},
        {"workers": 1.5},
        {"checkpoint_interval": "soon"},
        {"checkpoint_interval": 10},
        {"checkpoint_interval": "0s"},
        {"state_memory": "much"},
        {"state_memory": "1KB"},
        {"checkpoint_mode": "twice"},
        {"restart": "never"},
        {"restore": "newest"},
        {"restore": 0},
        {"restore": True},
        {"restore": None},
    ],
)
def test_setting_that_makes_no_sense_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        small().start(**settings)


@pytest.mark.parametrize(
    ("job", "types"),
    [
        (wordcount.pipeline(), ["TextFiles", "FlatMap", "KeyBy", "Combine", "Count"]),
        (copy_lines.pipeline("in", "out"), ["JsonLinesFiles", "Map"]),
        (running_totals.pipeline(5, "out"), ["Generator", "KeyBy", "Process"]),
    ],
)
def test_examples_are_complete_pipelines(job: Pipeline, types: list[str]) -> None:
    drawn = [operator.type for operator in job.definition(2).graph.operators]

    assert drawn == [*types, "JsonLinesFiles"]


def test_import_stays_light() -> None:
    heavy = "{'zmq', 'rocksdict', 'rich', 'click', 'asyncio'} & set(sys.modules)"
    code = f"import sys, flowsnap; print({heavy} or 'light')"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "light"


def test_public_names_are_there() -> None:
    assert [name for name in flowsnap.__all__ if not hasattr(flowsnap, name)] == []
