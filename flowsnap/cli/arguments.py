"""Turning the text of ``--arg key=value`` into what the annotations of a function ask for."""

from __future__ import annotations

import difflib
import inspect
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from flowsnap.cli.secret import is_secret, shown
from flowsnap.errors import ConfigError

_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def convert_arguments(function: Callable[..., Any], arguments: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of ``function``, converted by its annotations.

    Understood are str, int, float, bool, Path and unions of them with each other and None. A
    parameter without annotation has the type of its default, or is a str.

    Raises:
        ConfigError: one is unknown, missing or not of the annotated type; the function's own
            parameters are listed.
    """
    parameters = _parameters(function)
    try:
        for name in arguments:
            if name not in parameters:
                near = difflib.get_close_matches(name, parameters, n=1)
                error = ConfigError(f"there is no parameter {name!r}")
                raise error.hint(f"did you mean {near[0]}?") if near else error
        for name, parameter in parameters.items():
            if parameter.default is parameter.empty and name not in arguments:
                raise ConfigError(f"parameter {name!r} is missing").hint(f"give --arg {name}=...")
        return {name: _converted(parameters[name], text) for name, text in arguments.items()}
    except ConfigError as error:
        name = getattr(function, "__name__", "it")
        described = ", ".join(_described(parameter) for parameter in parameters.values())
        error.hint(f"the function is {name}({described})")
        raise


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        signature = inspect.signature(function, eval_str=True)
    except (NameError, TypeError, ValueError, SyntaxError, AttributeError) as error:
        raise ConfigError(f"the annotations of {function!r} cannot be read: {error}") from error
    return {p.name: p for p in signature.parameters.values() if p.kind not in _VARIADIC}


def _described(parameter: inspect.Parameter) -> str:
    if parameter.default is not parameter.empty and is_secret(parameter.name):
        parameter = parameter.replace(default=...)
    return str(parameter)


def _converted(parameter: inspect.Parameter, text: str) -> Any:
    choices = _choices(parameter)
    for choice in sorted(choices, key=lambda choice: choice is str):  # str takes anything
        try:
            return _CONVERSIONS[choice](text)
        except (KeyError, ValueError):
            continue
    expected = " or ".join(_NAMES.get(choice, str(choice)) for choice in choices)
    raise ConfigError(
        f"parameter {parameter.name!r}: {shown(parameter.name, text)} is not {expected}"
    )


def _choices(parameter: inspect.Parameter) -> list[Any]:
    kind = parameter.annotation
    if kind is parameter.empty:
        has_type = parameter.default is not None and parameter.default is not parameter.empty
        return [type(parameter.default) if has_type else str]
    if get_origin(kind) in (Union, types.UnionType):
        return [choice for choice in get_args(kind) if choice is not type(None)]
    return [kind]


def _boolean(text: str) -> bool:
    return _BOOLEANS[text.lower()]


_CONVERSIONS: dict[Any, Callable[[str], Any]] = {
    str: str,
    int: int,
    float: float,
    bool: _boolean,
    Path: Path,
}
_NAMES: dict[Any, str] = {
    str: "a str",
    int: "an int",
    float: "a float",
    bool: "a bool (true or false)",
    Path: "a path",
}
