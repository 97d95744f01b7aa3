from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowsnap.errors import ConfigError
from flowsnap.serialize import code_sha256, dump, dump_code, load, load_code

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@dataclass
class Visit:
    user: str


@given(PLAIN)
def test_values_come_back_equal(value: Any) -> None:
    assert load(dump(value)) == value


def test_what_can_be_found_by_name_travels_by_name() -> None:
    data = dump(Visit("ada"))

    assert load(data) == Visit("ada")
    assert __name__.encode() in data
    assert len(data) < 200


def test_a_function_without_a_name_travels_by_value() -> None:
    factor = 3

    assert load(dump(lambda n: n * factor))(14) == 42


@pytest.mark.parametrize("value", [threading.Lock(), (n for n in range(3))])
def test_what_cannot_be_pickled_is_refused(value: object) -> None:
    with pytest.raises((TypeError, pickle.PicklingError)):
        dump(value)


def test_buffers_are_put_back_without_a_copy() -> None:
    data = bytearray(b"large")
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(pickle.PickleBuffer(data), 5, buffer_callback=buffers.append)

    assert load(pickled, [buffer.raw() for buffer in buffers]) == b"large"


# --- the user's code


@pytest.fixture
def script() -> Iterator[types.ModuleType]:
    """A module that no worker could import."""
    module = types.ModuleType("only_here")
    source = (
        "class Visit:\n"
        "    def __init__(self, user): self.user = user\n"
        "def visit(user): return Visit(user)\n"
        "def is_visit(one): return isinstance(one, Visit)\n"
    )
    sys.modules["only_here"] = module
    exec(compile(source, "only_here.py", "exec"), module.__dict__)
    yield module
    sys.modules.pop("only_here", None)


def test_code_comes_back_once_its_hash_is_right() -> None:
    blob = dump_code({"double": lambda n: n * 2})

    assert load_code(blob, code_sha256(blob))["double"](21) == 42


def test_code_with_another_hash_is_not_loaded() -> None:
    fired: list[int] = []

    class Trap:
        def __reduce__(self) -> Any:
            return fired.append, (1,)

    blob = dump_code(Trap())
    with pytest.raises(ConfigError, match="does not have the announced sha256"):
        load_code(blob, code_sha256(b"other"))

    assert fired == []


def test_code_of_a_module_that_a_worker_cannot_import_travels_with_its_classes(
    script: types.ModuleType,
) -> None:
    blob = dump_code({"visit": script.visit, "is_visit": script.is_visit}, ["only_here"])
    del sys.modules["only_here"]

    code = load_code(blob, code_sha256(blob))

    made = code["visit"]("ada")
    assert code["is_visit"](made)
    again = load(dump(made))
    assert code["is_visit"](again), "its class is found by its name again"
    assert type(again) is sys.modules["only_here"].Visit


def test_registering_a_module_for_its_code_leaves_no_trace(script: types.ModuleType) -> None:
    dump_code(script.visit, ["only_here", "not_there_at_all"])

    assert b"only_here" in dump(script.Visit)
    assert len(dump(script.Visit)) < 100, "by name, as before"


def test_code_that_cannot_be_pickled_is_refused_with_advice() -> None:
    lock = threading.Lock()

    with pytest.raises(ConfigError, match=r"the pipeline cannot be pickled: .*lock") as caught:
        dump_code(lambda: lock)
    assert "open()" in caught.value.__notes__[0]


SCRIPT = """
import sys
from flowsnap.serialize import code_sha256, dump, dump_code, load, load_code

class Visit:
    pass

def make():
    return Visit()

if len(sys.argv) > 1:
    blob = open(sys.argv[1], "rb").read()
    made = load_code(blob, code_sha256(blob))()
    assert type(load(dump(made))) is type(made)
    print(type(made).__module__)
else:
    sys.stdout.buffer.write(dump_code(make, ["__main__"]))
"""


def test_the_classes_of_a_script_belong_to_main_in_another_process_too(tmp_path: Any) -> None:
    script, blob = tmp_path / "script.py", tmp_path / "code.pkl"
    script.write_text(SCRIPT)

    def run(*arguments: str) -> bytes:
        command = [sys.executable, *arguments]
        return subprocess.run(command, capture_output=True, timeout=60, check=True).stdout

    blob.write_bytes(run(str(script)))

    assert run(str(script), str(blob)) == b"__main__\n"
