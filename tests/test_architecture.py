"""The layers: who may import whom, what the core may touch, and where bytes may become objects."""

from __future__ import annotations

import ast
import doctest
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

BASE = {"errors", "config", "failpoint", "serialize", "bucket"}
ADAPTERS = {"state", "storage", "transport"}
LIBRARY = {"operators", "connectors"}
ALL_BELOW_API = BASE | {"core"} | ADAPTERS | LIBRARY | {"runtime"}
ENTRY = {"cli", "snapshot", "testing", "examples", "pytest_plugin"}

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "config": {"errors"},
    "failpoint": {"errors"},
    "serialize": {"errors"},
    "bucket": {"errors"},
    "core": {"errors", "config"},
    **{adapter: BASE | {"core"} for adapter in ADAPTERS},  # none imports another
    **{library: BASE | {"core"} for library in LIBRARY},  # state comes through the context
    "runtime": BASE | {"core"} | ADAPTERS,  # not the operators: the job graph carries them
    "api": ALL_BELOW_API | {"snapshot"},  # for invariants, which are given one
    "snapshot": ALL_BELOW_API | {"api"},
    "testing": ALL_BELOW_API | {"api", "snapshot"},
    "pytest_plugin": {"testing", "flowsnap"},
    "examples": ALL_BELOW_API | {"api", "snapshot", "flowsnap"},
    "cli": ALL_BELOW_API | ENTRY | {"api", "flowsnap"},
    "flowsnap": ALL_BELOW_API | ENTRY | {"api"},  # the public names, re-exported
}

IMPURE = {
    "asyncio",
    "logging",
    "os",
    "pathlib",
    "random",
    "rocksdict",
    "socket",
    "subprocess",
    "threading",
    "time",
    "zmq",
}

LOADERS = {
    "pickle": {"load", "loads", "Unpickler"},
    "cloudpickle": {"load", "loads"},
    "yaml": {"load"},
}


def sources() -> list[tuple[str, str, str]]:
    """Return (path, layer, text) of every module; operators/ is read where it really is."""
    found = []
    for top, prefix in ((ROOT / "flowsnap", ()), (ROOT / "operators", ("operators",))):
        for path in sorted(top.rglob("*.py")):
            inner = (*prefix, *path.relative_to(top).parts)
            if inner[0] == "operators" and not prefix:
                continue  # Reached through the link: the same files.
            layer = inner[0].removesuffix(".py") if inner != ("__init__.py",) else "flowsnap"
            found.append((str(path.relative_to(ROOT)), layer, path.read_text(encoding="utf-8")))
    return found


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the dotted name of all that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{a.name}" for a in node.names)


def layer_of(name: str) -> str:
    """Return the layer of an imported ``flowsnap...`` name; "flowsnap" for the public names."""
    parts = name.split(".")
    if name == "flowsnap.__version__":
        return "errors"  # A constant of the package: no layer above is reached through it.
    return parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else "flowsnap"


def stray_imports(layer: str, text: str) -> list[str]:
    """Return what a module of ``layer`` imports and may not."""
    stray = []
    for name in imported(ast.parse(text)):
        top = name.split(".")[0]
        if top == "flowsnap":
            if layer_of(name) not in MAY_IMPORT[layer] | {layer}:
                stray.append(name)
        elif not top or top in ("operators", "tests", "benchmarks"):
            stray.append(name)  # Relative, or not a part of what is installed.
        elif layer == "core" and (
            top in IMPURE or top not in sys.stdlib_module_names | {"msgspec"}
        ):
            stray.append(name)
    return stray


def loads_objects(text: str) -> list[str]:
    """Return what in a module could turn bytes or text into objects of any kind, and run code."""
    found = []
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr=name):
                if name in LOADERS.get(module, ()) or name == "recv_pyobj":
                    found.append(f"{module}.{name}")
            case ast.Attribute(attr="recv_pyobj"):
                found.append("recv_pyobj")
            case ast.ImportFrom(module=str(module), names=names):
                found += [f"{module}.{a.name}" for a in names if a.name in LOADERS.get(module, ())]
            case ast.Call(func=ast.Name(id="eval" | "exec" as name)):
                found.append(name)
            case _:
                pass
    return found


def test_every_module_imports_only_what_lies_below_it() -> None:
    stray = [
        f"{path} imports {name}"
        for path, layer, text in sources()
        for name in stray_imports(layer, text)
    ]

    assert stray == []


def test_every_module_belongs_to_a_layer() -> None:
    assert {layer for _, layer, _ in sources()} <= set(MAY_IMPORT)


def test_layers_have_no_cycle_below_the_entry_points() -> None:
    base = ["errors", "config", "failpoint", "serialize", "bucket"]
    order = [*base, "core", *ADAPTERS, *LIBRARY, "runtime"]

    for position, layer in enumerate(order):
        assert MAY_IMPORT[layer] <= set(order[:position])


def test_bytes_become_objects_in_one_module_only() -> None:
    found = {path: loads_objects(text) for path, _, text in sources()}

    assert [path for path, names in found.items() if names] == ["flowsnap/serialize.py"]


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        ("core", "import time"),
        ("core", "from os.path import join"),
        ("core", "def f():\n    import random"),
        ("core", "import zmq.asyncio"),
        ("core", "import numpy"),
        ("core", "from flowsnap import failpoint"),
        ("core", "from flowsnap.serialize import load"),
        ("state", "from flowsnap.storage.directory import Directory"),
        ("runtime", "from flowsnap.operators import Map"),
        ("runtime", "from flowsnap.api.stream import Stream"),
        ("operators", "import flowsnap.state.rocksdb"),
        ("api", "from flowsnap import Pipeline"),
        ("state", "from . import codec"),
        ("api", "import operators.map"),
    ],
)
def test_stray_import_is_noticed(layer: str, text: str) -> None:
    assert len(stray_imports(layer, text)) == 1


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        ("core", "import msgspec\nfrom flowsnap.core.ids import TaskId"),
        ("core", "from flowsnap import errors"),
        ("transport", "import zmq\nfrom flowsnap.failpoint import failpoint"),
        ("cli", "from flowsnap.snapshot import open_checkpoint\nimport flowsnap"),
    ],
)
def test_import_of_what_lies_below_is_allowed(layer: str, text: str) -> None:
    assert stray_imports(layer, text) == []


@pytest.mark.parametrize(
    "text",
    [
        "pickle.loads(data)",
        "from pickle import loads",
        "from cloudpickle import load as innocent",
        "socket.recv_pyobj()",
        "self.socket.recv_pyobj()",
        "yaml.load(text)",
        "eval(text)",
        "pickle.Unpickler(file)",
    ],
)
def test_loading_of_objects_is_noticed(text: str) -> None:
    assert len(loads_objects(text)) == 1


@pytest.mark.parametrize("text", ["pickle.dumps(x)", "ast.literal_eval(x)", "json.loads(x)"])
def test_harmless_calls_are_no_loading_of_objects(text: str) -> None:
    assert loads_objects(text) == []


@pytest.mark.parametrize(
    "path", sorted(path.stem for path in (ROOT / "flowsnap/core").glob("*.py"))
)
def test_sessions_in_the_docstrings_of_the_core_hold(path: str) -> None:
    module = importlib.import_module(f"flowsnap.core.{path}")

    assert doctest.testmod(module).failed == 0
