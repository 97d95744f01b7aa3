from __future__ import annotations

import base64
import hashlib
import json
from datetime import datetime
from typing import Any

import msgspec
import pytest

from flowsnap.core.ids import CheckpointId
from flowsnap.core.manifest import (
    CheckpointManifest,
    FileHandle,
    PreparedOutput,
    decode,
    encode,
    files,
    new_bytes,
    size_bytes,
)
from flowsnap.errors import CheckpointError, ManifestCorrupt
from tests.manifests import at, checkpoint, file, keyed_state, words

WHERE = "checkpoints/00000007/manifest.json"


def with_position(position: Any) -> CheckpointManifest:
    return checkpoint(words(), {"lines/0": {"splits": (at("a.txt", position),)}}, number=7)


def with_file(handle: FileHandle) -> CheckpointManifest:
    state = msgspec.structs.replace(keyed_state(0, 128), files=(handle,))
    return checkpoint(words(), {"count/0": {"state": state}})


def sealed(text: str) -> bytes:
    """Return ``text``, a JSON object without its closing brace, with the right checksum."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f'{text},\n  "sha256": "{digest}"\n}}\n'.encode()


def test_manifest_is_json_that_people_can_read() -> None:
    text = encode(with_position(42)).decode()

    assert json.loads(text)["tasks"][0]["splits"][0]["position"] == 42
    assert '\n  "checkpoint_id": 7,\n' in text


def test_last_member_is_the_sha256_of_all_before_it() -> None:
    data = encode(with_position(42))
    head, _, _ = data.rpartition(b',\n  "sha256": ')

    assert json.loads(data)["sha256"] == hashlib.sha256(head).hexdigest()
    assert list(json.loads(data))[-1] == "sha256"


def test_bytes_travel_as_base64_in_a_tagged_object() -> None:
    data = encode(with_position(b"\x00\xff"))

    position = json.loads(data)["tasks"][0]["splits"][0]["position"]
    assert position == {"$bytes": base64.b64encode(b"\x00\xff").decode()}
    assert decode(data, WHERE).tasks[0].splits[0].position == b"\x00\xff"


@pytest.mark.parametrize(
    "value",
    [
        {"$bytes": "not bytes"},
        {"$map": 1, "plain": 2},
        {1: "a", "1": "b", b"1": "c", None: "d"},
        [float("inf"), -float("inf"), -0.0, 2**63, -(2**63)],
        {"nested": [{"deep": [b"", {}, []]}]},
        "line\nbreak \u2028 \x00 \U0001f600",
    ],
)
def test_any_plain_value_comes_back_as_it_was(value: Any) -> None:
    manifest = with_position(value)

    assert decode(encode(manifest), WHERE) == manifest


@pytest.mark.parametrize("value", [object(), datetime(2024, 1, 1), {(1, 2): 3}, "\ud800"])
def test_value_that_would_not_come_back_is_refused_at_once(value: Any) -> None:
    with pytest.raises(CheckpointError, match="checkpoint 7 cannot be written down") as caught:
        encode(with_position(value))

    assert "positions and committables" in caught.value.__notes__[0]


def test_value_that_is_nested_too_deeply_is_refused_at_once() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]

    with pytest.raises(CheckpointError, match="checkpoint 7 cannot be written down"):
        encode(with_position(value))


def test_bytes_that_are_no_base64_are_refused() -> None:
    text = encode(with_position(b"\x00")).decode().rpartition(',\n  "sha256": ')[0]

    with pytest.raises(ManifestCorrupt, match="is no valid manifest"):
        decode(sealed(text.replace('"AA=="', '"A%A=="')), WHERE)


def test_manifest_that_could_not_be_read_again_is_not_written() -> None:
    manifest = msgspec.structs.replace(with_position(1), duration_ms="soon")

    with pytest.raises(CheckpointError, match="duration_ms"):
        encode(manifest)


def test_truncation_at_any_byte_is_found() -> None:
    data = encode(with_position(1))

    for length in range(len(data)):
        with pytest.raises(ManifestCorrupt, match=r"manifest\.json is cut off"):
            decode(data[:length], WHERE)


def test_edit_is_found_with_the_expected_and_the_found_checksum() -> None:
    data = encode(with_position(42))
    edited = data.replace(b'"position": 42', b'"position": 43')
    found = hashlib.sha256(edited.rpartition(b',\n  "sha256": ')[0]).hexdigest()

    with pytest.raises(ManifestCorrupt, match="is damaged") as caught:
        decode(edited, WHERE)

    assert f"its sha256 is {found}, expected {json.loads(data)['sha256']}" in str(caught.value)


def test_other_version_is_named_with_the_expected_one() -> None:
    with pytest.raises(ManifestCorrupt, match=f"{WHERE} has format version 2, expected 1"):
        decode(sealed('{\n  "format_version": 2'), WHERE)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is not JSON"),
        (b"\xff" * 200, "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"format_version": 1}\n', "does not end with a sha256"),
        (sealed('{\n  "job": "words"'), "has format version None, expected 1"),
        (sealed('{\n  "format_version": 1'), "missing required field `job`"),
        (sealed('{\n  "format_version": 1,\n  "job": {"$bytes": "%"}'), "is no valid manifest"),
        (sealed('{\n  "$bytes": "AA=="'), "has format version None, expected 1"),
        (sealed('{\n  "deep": ' + "[" * 100_000), "is no valid manifest"),
        (sealed('{\n  "format_version": '), "is no valid manifest"),
        (sealed('[\n  "format_version"'), "is no valid manifest"),
    ],
)
def test_what_is_no_manifest_is_told_apart(data: bytes, reason: str) -> None:
    with pytest.raises(ManifestCorrupt, match=reason) as caught:
        decode(data, WHERE)

    assert str(caught.value).startswith(WHERE)


@pytest.mark.parametrize(
    "handle",
    [
        FileHandle("a", "../../etc/passwd", 1, "0"),
        FileHandle("a", "/etc/passwd", 1, "0"),
        FileHandle("a", "shared/./a", 1, "0"),
        FileHandle("a", "shared/a\0", 1, "0"),
        FileHandle("../a", "shared/a", 1, "0"),
        FileHandle("..", "shared/a", 1, "0"),
        FileHandle("", "shared/a", 1, "0"),
        FileHandle("a\0", "shared/a", 1, "0"),
    ],
)
def test_file_outside_of_the_store_is_neither_written_nor_read(handle: FileHandle) -> None:
    with pytest.raises(CheckpointError, match=r"file (path|name)"):
        encode(with_file(handle))

    text = encode(with_file(file("harmless"))).decode().rpartition(',\n  "sha256": ')[0]
    text = text.replace('"shared/harmless"', json.dumps(handle.path))
    text = text.replace('"harmless"', json.dumps(handle.name))
    with pytest.raises(ManifestCorrupt, match=r"file (path|name)"):
        decode(sealed(text), WHERE)


def test_files_are_those_of_all_tasks_each_once() -> None:
    left = msgspec.structs.replace(keyed_state(0, 64, "a", "shared"), new_bytes=100)
    right = msgspec.structs.replace(keyed_state(64, 128, "shared", "b"), new_bytes=200)
    manifest = checkpoint(
        words(counters=2), {"count/0": {"state": left}, "count/1": {"state": right}}
    )

    assert [handle.name for handle in files(manifest)] == ["a", "shared", "b"]
    assert size_bytes(manifest) == 300
    assert new_bytes(manifest) == 300


@pytest.mark.parametrize("numbers", [(), (3,), (1, 2, 3)])
def test_prepared_output_of_any_number_of_checkpoints_comes_back(numbers: tuple[int, ...]) -> None:
    prepared = tuple(PreparedOutput(CheckpointId(n), {"file": f"part-{n}"}) for n in numbers)
    manifest = checkpoint(words(), {"count/0": {"prepared": prepared}})

    assert decode(encode(manifest), WHERE).tasks[1].prepared == prepared
