from __future__ import annotations

import pytest

from flowsnap.core.ids import CheckpointId
from flowsnap.core.manifest import FileHandle
from flowsnap.core.registry import SharedFiles
from flowsnap.errors import LocalProtocolError
from tests.manifests import file, hash_of

ONE, TWO, THREE = CheckpointId(1), CheckpointId(2), CheckpointId(3)
A, B = file("a.sst"), file("b.sst")


def take(shared: SharedFiles, number: CheckpointId, *handles: FileHandle) -> None:
    """Take a checkpoint that lists ``handles``, storing those that may not be listed again."""
    for handle in handles:
        if shared.lookup(handle.name, handle.sha256) != handle:
            shared.stored(number, handle)
    shared.used(number, handles)
    shared.check()


def knows(shared: SharedFiles, handle: FileHandle) -> bool:
    return shared.lookup(handle.name, handle.sha256) is not None


def test_file_of_a_completed_checkpoint_is_listed_again() -> None:
    shared = SharedFiles()
    take(shared, ONE, A, B)
    assert not knows(shared, A)

    shared.complete(ONE)

    assert shared.lookup("a.sst", hash_of("a.sst")) == A


def test_file_of_the_restored_checkpoint_is_listed_again() -> None:
    shared = SharedFiles()
    shared.restored([A])
    shared.restored([B])

    assert knows(shared, A)
    assert knows(shared, B)


def test_same_name_with_other_content_is_another_file() -> None:
    shared = SharedFiles()
    shared.restored([A])

    assert shared.lookup("a.sst", hash_of("other content")) is None


def test_file_of_an_aborted_checkpoint_is_stored_once_more() -> None:
    shared = SharedFiles()
    take(shared, ONE, A)
    shared.abort(ONE)
    take(shared, TWO, B)
    shared.complete(TWO)

    assert not knows(shared, A)
    assert knows(shared, B)


def test_file_that_the_newest_checkpoint_does_not_list_is_gone_with_the_older_one() -> None:
    shared = SharedFiles()
    take(shared, ONE, A, B)
    shared.complete(ONE)
    take(shared, TWO, B)
    shared.complete(TWO)

    assert not knows(shared, A)
    assert knows(shared, B)


def test_file_whose_completion_was_never_heard_of_comes_back_with_the_next_checkpoint() -> None:
    shared = SharedFiles()
    take(shared, ONE, A)
    take(shared, TWO, A)

    shared.complete(TWO)

    assert knows(shared, A)


def test_late_news_of_a_subsumed_checkpoint_changes_nothing() -> None:
    shared = SharedFiles()
    take(shared, ONE, A)
    take(shared, TWO, B)
    shared.complete(TWO)

    shared.complete(ONE)
    shared.complete(TWO)

    assert not knows(shared, A)
    assert knows(shared, B)


def test_file_is_not_listed_again_while_a_younger_checkpoint_may_have_retired_its_own() -> None:
    shared = SharedFiles()
    stored_again = file("a.sst", path="shared/second")
    take(shared, ONE, A)
    take(shared, TWO, stored_again)
    shared.complete(ONE)  # Late: 2 is complete too, and 1 may be gone with its file.

    assert not knows(shared, A)
    shared.complete(TWO)
    assert shared.lookup("a.sst", hash_of("a.sst")) == stored_again


def test_abort_of_the_younger_checkpoint_makes_the_file_sure_again() -> None:
    shared = SharedFiles()
    shared.restored([A])
    take(shared, ONE, B)
    assert not knows(shared, A)

    shared.abort(ONE)

    assert knows(shared, A)


def test_completion_of_a_checkpoint_before_this_attempt_keeps_what_was_restored() -> None:
    shared = SharedFiles()
    shared.restored([A])

    shared.complete(ONE)

    assert knows(shared, A)


def test_checkpoint_must_not_list_what_was_neither_stored_for_it_nor_is_sure_to_stay() -> None:
    shared = SharedFiles()
    shared.stored(ONE, A)
    shared.used(ONE, [A])

    with pytest.raises(LocalProtocolError, match="checkpoint 2 lists shared/a"):
        shared.used(TWO, [A])

    shared.complete(ONE)
    assert knows(shared, A)


def test_what_is_stored_for_a_checkpoint_that_was_overtaken_meanwhile_is_ignored() -> None:
    shared = SharedFiles()
    take(shared, TWO, B)
    shared.complete(TWO)

    shared.stored(ONE, A)
    shared.used(ONE, [A])

    shared.check()
    assert not knows(shared, A)
    assert knows(shared, B)


def test_what_is_stored_for_a_checkpoint_that_was_aborted_meanwhile_is_ignored() -> None:
    shared = SharedFiles()
    shared.restored([A])
    shared.stored(ONE, B)
    shared.abort(ONE)

    shared.stored(ONE, B)
    shared.used(ONE, [B])

    shared.check()
    assert knows(shared, A)
    assert not knows(shared, B)
    take(shared, TWO, B)
    shared.complete(TWO)
    shared.check()


def test_late_abort_of_a_subsumed_checkpoint_changes_nothing() -> None:
    shared = SharedFiles()
    take(shared, ONE, A)
    shared.complete(ONE)

    shared.abort(ONE)

    shared.check()
    assert knows(shared, A)


def test_two_names_of_one_content_are_two_files() -> None:
    same = FileHandle("c.sst", "shared/c.sst", 100, A.sha256)
    shared = SharedFiles()
    take(shared, ONE, A, same)
    shared.complete(ONE)

    assert shared.lookup("c.sst", A.sha256) == same
    assert shared.lookup("a.sst", A.sha256) == A
