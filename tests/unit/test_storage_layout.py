from __future__ import annotations

import pytest

from flowsnap.core.ids import AttemptId, CheckpointId, TaskId
from flowsnap.errors import ManifestCorrupt
from flowsnap.storage import layout
from flowsnap.storage.record import Outcome, Reservation, seal, unseal
from flowsnap.storage.store import is_name

NAMES = [
    "count", "Count", "COUNT", "count words", "count-words", "größe", "grösse", "a.1", "a", "a/b",
    "../../etc", "-x", "_", "", " ", "計算", "x" * 100, "x" * 101, "x" * 1000, "count.0",
]  # fmt: skip


def test_every_task_has_a_part_of_its_own_that_is_a_name() -> None:
    tasks = [TaskId(f"{name}/{subtask}") for name in NAMES for subtask in (0, 1, 10)]

    parts = [layout.task_part(task) for task in tasks]

    assert [part for part in parts if not is_name(part) or "/" in part] == []
    assert len({part.lower() for part in parts}) == len(tasks)


def test_a_plain_operator_can_be_recognised_in_the_name() -> None:
    assert layout.task_part(TaskId("count_words-2/17")) == "count_words-2.17"
    assert layout.task_part(TaskId("Count words/0")).startswith("count-words.")


def test_every_name_we_write_is_recognised_as_ours() -> None:
    big = CheckpointId(123_456_789)
    private = layout.private_path(big, TaskId("Größe/3"), "MANIFEST-000005")
    shared = layout.shared_path(AttemptId(3), big, "0123456789abcdef")

    assert layout.checkpoint_of(private) == layout.checkpoint_of(layout.begun_path(big)) == big
    assert layout.stored_for(shared) == big
    assert layout.attempt_of(layout.attempt_path(AttemptId(3))) == 3
    assert layout.is_ours(private)
    assert layout.is_ours(shared)


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt", "shared/a.sst", "shared/00000001-00000001-0123456789abcdeg.sst",
        "checkpoints/1/manifest.json", "checkpoints/00000001/README", "attempts/1.json",
        "checkpoints/00000001/a/b", "checkpoints/00000001/a.0/b/c", "job.json/x", "shared",
        "00000001/manifest.json", "x/shared/00000001-00000001-0123456789abcdef.sst",
    ],
)  # fmt: skip
def test_what_we_never_write_is_not_ours(name: str) -> None:
    assert not layout.is_ours(name)


def test_a_record_comes_back_as_it_was_sealed() -> None:
    outcome = Outcome(run_id="0123abcd", state="failed", message='says "no"\n', ended_at_ms=1)

    assert unseal(seal(outcome), Outcome, "outcome.json") == outcome


def test_every_flipped_bit_and_every_cut_of_a_record_is_found() -> None:
    data = seal(Outcome(run_id="0123abcd", state="failed", message="boom", ended_at_ms=1))
    flipped = [
        data[:index] + bytes([data[index] ^ 1 << bit]) + data[index + 1 :]
        for index in range(len(data))
        for bit in range(8)
    ]

    for damaged in [*flipped, *(data[:end] for end in range(len(data))), data + b"\n"]:
        with pytest.raises(ManifestCorrupt, match=r"outcome\.json"):
            unseal(damaged, Outcome, "outcome.json")


def test_a_record_of_another_version_or_kind_is_refused() -> None:
    future = Outcome(format_version=2, run_id="", state="", message="", ended_at_ms=0)
    other = Reservation(checkpoint_id=CheckpointId(1), nonce="", begun_at_ms=0)

    with pytest.raises(ManifestCorrupt, match="has format version 2, expected 1"):
        unseal(seal(future), Outcome, "outcome.json")
    with pytest.raises(ManifestCorrupt, match="is no valid record"):
        unseal(seal(other), Outcome, "outcome.json")
