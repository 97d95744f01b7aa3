"""Finding the pipeline that the user means: ``module[:name]`` or ``file.py[:name]``."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, TypeVar

from flowsnap.api.pipeline import Pipeline
from flowsnap.cli.arguments import convert_arguments
from flowsnap.errors import ConfigError, FlowsnapError

T = TypeVar("T")

DEFAULT_NAME = "pipeline"


def load(target: str, arguments: Mapping[str, str]) -> Pipeline:
    """Return what ``target`` names; ``arguments`` go to the function that makes the pipeline.

    A file is loaded as a module under its stem, and its classes and functions travel to the workers
    inside the code blob. The file's directory and the current one are put on ``sys.path``.

    Raises:
        ConfigError: there is no such file, module or name; it is no pipeline; or the arguments
            do not fit.
    """
    place, _, name = target.partition(":")
    _add_path(Path.cwd())
    is_file = place.endswith(".py")
    module = _load_file(Path(place)) if is_file else _load_module(place)
    pipeline = _make(_find(module, name or DEFAULT_NAME, place), arguments, place)
    if is_file and module.__name__ not in pipeline.modules:
        pipeline.modules = (*pipeline.modules, module.__name__)
    return pipeline


def _add_path(directory: Path) -> None:
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))


def _load_file(path: Path) -> types.ModuleType:
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.py")])
        error = ConfigError(f"there is no file {path}")
        raise error.hint(f"did you mean {' or '.join(near)}?") if near else error
    path = path.resolve()
    former = sys.modules.get(path.stem)
    if former is not None and getattr(former, "__file__", None) != str(path):
        raise ConfigError(f"{path.name} has the name of the module {path.stem}").hint(
            "give the file another name: it is loaded as a module of its own"
        )
    _add_path(path.parent)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        _run(lambda: _execute(spec, module), f"{path.name} cannot be loaded")
    except FlowsnapError:
        del sys.modules[path.stem]
        raise
    return module


def _execute(spec: ModuleSpec, module: types.ModuleType) -> None:
    assert spec.loader is not None  # it was made from a file
    spec.loader.exec_module(module)


def _load_module(name: str) -> types.ModuleType:
    try:
        return _run(lambda: importlib.import_module(name), f"{name!r} cannot be imported")
    except ConfigError as error:
        missing = getattr(error.__cause__, "name", None)
        is_absent = isinstance(error.__cause__, ModuleNotFoundError)
        if not (is_absent and f"{name}.".startswith(f"{missing}.")):
            raise  # The module is there; what it imports or does is at fault.
    files = sorted(path.name for path in Path.cwd().glob("*.py"))
    raise ConfigError(f"there is no module {name!r}").hint(
        "write package.module:name or file.py:name"
        + (f"; the files here are {', '.join(files[:8])}" if files else "")
    )


def _run(call: Callable[[], T], what: str) -> T:
    try:
        return call()
    except FlowsnapError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise ConfigError(f"{what}: {type(error).__name__}: {error}") from error


def _find(module: types.ModuleType, name: str, place: str) -> Any:
    if hasattr(module, name):
        return getattr(module, name)
    found = [key for key, value in vars(module).items() if _is_candidate(value, module)]
    near = difflib.get_close_matches(name, found, n=1)
    if near:
        hint = f"did you mean {place}:{near[0]}?"
    elif found:
        hint = f"it has {', '.join(f'{place}:{key}' for key in found)}"
    else:
        hint = "it has no Pipeline, and no function that says it returns one"
    raise ConfigError(f"{place} has no {name!r}").hint(hint)


def _is_candidate(value: object, module: types.ModuleType) -> bool:
    if isinstance(value, Pipeline):
        return True
    if not inspect.isfunction(value) or value.__module__ != module.__name__:
        return False
    return value.__annotations__.get("return") in (Pipeline, "Pipeline")


def _make(found: Any, arguments: Mapping[str, str], place: str) -> Pipeline:
    if isinstance(found, Pipeline):
        if arguments:
            raise ConfigError(f"{place} holds a pipeline, which takes no arguments").hint(
                f"leave out --arg {' '.join(arguments)}, or name a function that returns a pipeline"
            )
        return found
    if not callable(found):
        raise ConfigError(f"{place}: something of type {type(found).__name__} is no pipeline").hint(
            "name a Pipeline, or a function that returns one"
        )
    name = getattr(found, "__name__", "the target")
    values = convert_arguments(found, arguments)
    made = _run(lambda: found(**values), f"{place}:{name}() failed")
    if not isinstance(made, Pipeline):
        raise ConfigError(
            f"{place}:{name}() returned something of type {type(made).__name__}, not a Pipeline"
        )
    return made
