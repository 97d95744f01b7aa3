"""What is a class of ``__main__`` in one process is one in the next, or refused by its name.

cloudpickle #195: there a class of the script was made anew, and nothing was an instance of it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
from dataclasses import dataclass
from pathlib import Path

from flowsnap.core.key import decode_key, encode_key
from flowsnap.errors import StateError
from flowsnap.state.codec import decode_value, encode_value

{definition}

value, key = Path(sys.argv[1], "value"), Path(sys.argv[1], "key")
if not value.exists():
    value.write_bytes(encode_value(Visit(1)))
    key.write_bytes(encode_key(Visit(2)))
    sys.exit()
for read, path in [(decode_value, value), (decode_key, key)]:
    try:
        read_back = read(path.read_bytes())
        print(type(read_back) is Visit, read_back)
    except StateError as error:
        print(error, *error.__notes__)
"""

VISIT = "@dataclass(frozen=True)\nclass Visit:\n    user: int"


def run(directory: Path, definition: str) -> list[str]:
    """Run a script with a class of its own in another process; return what it has printed."""
    script = directory / "script.py"
    script.write_text(SCRIPT.format(definition=definition))
    ran = subprocess.run(
        [sys.executable, str(script), str(directory)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return ran.stdout.splitlines()


def test_a_class_of_the_script_is_the_same_one_in_the_next_process(tmp_path: Path) -> None:
    run(tmp_path, VISIT)

    assert run(tmp_path, VISIT) == ["True Visit(user=1)", "True Visit(user=2)"]


def test_a_class_that_the_next_script_has_not_is_named_with_what_to_do(tmp_path: Path) -> None:
    run(tmp_path, VISIT)

    of_value, of_key = run(tmp_path, "class Call: pass")

    assert "'Visit'" in of_value
    assert "__main__" in of_value
    assert "keep the classes of values in state under their modules and names" in of_value
    assert "class __main__:Visit, of a key in the state, is gone" in of_key
    assert "keep the class under its module and name" in of_key
