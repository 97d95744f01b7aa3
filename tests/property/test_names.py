"""Any text as an identifier or a name: it is refused, or stays where it belongs."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from hypothesis import example, given
from hypothesis import strategies as st

from flowsnap.core.ids import AttemptId, CheckpointId, TaskId
from flowsnap.errors import LocalProtocolError
from flowsnap.storage import layout
from flowsnap.storage.memory import MemoryStore
from flowsnap.storage.store import check_name, is_name

PIECES = st.sampled_from(
    ["..", ".", "/", "\\", "%2e%2e", "%2f", "\0", "\n", "~", "a", "B", "-", "_", " ", "é", "\u202e"]
)
TEXTS = st.text(max_size=20) | st.lists(PIECES, max_size=8).map("".join)
ROOT = Path("/job")
NUMBERS = st.integers(1, 10**12)


@given(TEXTS)
@example("../../etc/passwd")
@example("checkpoints/../../x")
@example("/etc/passwd")
@example("a//b")
def test_a_name_never_leads_out_of_its_store(text: str) -> None:
    if is_name(text):
        path = ROOT / text
        assert path.is_relative_to(ROOT)
        assert path != ROOT
        assert ".." not in path.parts


@given(TEXTS)
def test_what_is_no_name_is_refused_and_changes_nothing(text: str) -> None:
    store = MemoryStore()
    if is_name(text):
        return

    for call in (lambda: check_name(text), lambda: store.put(text, b"1")):
        try:
            call()
        except LocalProtocolError:
            continue
        raise AssertionError(f"{text!r} was taken")
    assert store.list() == []


@given(TEXTS.filter(bool), st.integers(0, 10_000), NUMBERS)
def test_any_operator_has_a_part_of_its_own_below_its_checkpoint(
    operator: str, subtask: int, number: int
) -> None:
    checkpoint_id = CheckpointId(number)
    path = layout.private_path(checkpoint_id, TaskId(f"{operator}/{subtask}"), "000001.sst")

    assert is_name(path)
    assert len(PurePosixPath(path).parts) == 4
    assert layout.checkpoint_of(path) == checkpoint_id
    assert layout.is_ours(path)


@given(st.lists(TEXTS.filter(bool), min_size=2, max_size=6, unique=True))
def test_no_two_operators_share_a_part_even_where_case_is_ignored(operators: list[str]) -> None:
    parts = [layout.task_part(TaskId(f"{operator}/0")).lower() for operator in operators]

    assert len(set(parts)) == len(operators)


@given(NUMBERS, NUMBERS, st.integers(0, 2**64 - 1))
def test_a_shared_file_says_what_it_was_stored_for(attempt: int, number: int, random: int) -> None:
    path = layout.shared_path(AttemptId(attempt), CheckpointId(number), f"{random:016x}")

    assert is_name(path)
    assert layout.stored_for(path) == number
    assert layout.checkpoint_of(path) is None
    assert layout.attempt_of(layout.attempt_path(AttemptId(attempt))) == attempt


@given(TEXTS)
def test_any_text_is_ours_only_if_it_is_a_name(text: str) -> None:
    if layout.is_ours(text):
        assert is_name(text)
