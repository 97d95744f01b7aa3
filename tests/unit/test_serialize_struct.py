"""The classes of Structs travel whole, where a worker cannot import them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from flowsnap.serialize import dump, load

SCRIPT = """
from __future__ import annotations
import sys
from datetime import datetime
from typing import ClassVar
import msgspec
from flowsnap.serialize import dump_code

class Base(msgspec.Struct, kw_only=True):
    b: int = 3

class Node(Base, rename="camel", frozen=True, tag="node"):
    LIMIT: ClassVar[int] = 7
    user_name: str
    n: int = 1
    kids: list[Node] = []
    at: datetime | None = None

    def total(self) -> int:
        return self.n + sum(kid.total() for kid in self.kids) + Node.LIMIT

    def __post_init__(self):
        if self.n < 0:
            raise ValueError("negative")

sys.stdout.buffer.write(dump_code(Node, ["__main__"]))
"""

READER = """
import sys
import msgspec
from flowsnap.serialize import code_sha256, dump, load, load_code

blob = sys.stdin.buffer.read()
Node = load_code(blob, code_sha256(blob))
line = b'{"type":"node","userName":"a","n":2,"kids":[{"type":"node","userName":"k"}]}'
node = msgspec.json.decode(line, type=Node)
assert load(dump(node)) == node
print(node, node.total(), Node.__struct_config__.frozen, msgspec.json.encode(node) != line)
try:
    Node("x", n=-1)
except ValueError as error:
    print(error)
"""


def test_struct_of_a_script_has_its_fields_methods_and_settings_in_a_worker() -> None:
    root = Path(__file__).parents[2]
    made = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, cwd=root)
    read = subprocess.run(
        [sys.executable, "-c", READER], check=True, capture_output=True, cwd=root, input=made.stdout
    )

    kid = "Node(user_name='k', n=1, kids=[], at=None, b=3)"
    assert read.stdout.decode().splitlines() == [
        f"Node(user_name='a', n=2, kids=[{kid}], at=None, b=3) 17 True True",
        "negative",
    ]


def test_struct_that_is_made_in_a_function_stays_the_same_class_in_its_process() -> None:
    class Local(msgspec.Struct):
        n: int
        word: str = "none"

    assert load(dump(Local)) is Local
    assert load(dump([Local(1), Local(2, "b")])) == [Local(1), Local(2, "b")]


def test_dataclass_that_msgspec_has_looked_at_can_still_travel() -> None:
    @dataclass
    class Point:
        x: int

    msgspec.json.Decoder(Point)

    assert load(dump([Point(1)])) == [Point(1)]
