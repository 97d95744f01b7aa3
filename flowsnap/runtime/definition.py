"""What is handed over when a job is submitted: the graph, and the user's code beside it.

The control plane sees the graph only. The code travels as one blob, and is loaded in workers and
nowhere else; see ``flowsnap.serialize``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flowsnap.core.graph import JobGraph
from flowsnap.core.ids import OperatorId
from flowsnap.core.operator import Operator, Sink, Source
from flowsnap.errors import ConfigError
from flowsnap.runtime.watcher import InvariantCheck
from flowsnap.serialize import dump_code

Code = Operator | Source | Sink
"""The template of one operator, source or sink."""


@dataclass(frozen=True, slots=True)
class PipelineDefinition:
    """A pipeline, ready to be submitted.

    ``code`` has one template for each operator of ``graph``. ``modules`` names the modules that a
    worker cannot import, so that what they define travels by value. ``invariants`` are checked by
    the job manager, and do not travel.
    """

    graph: JobGraph
    code: Mapping[OperatorId, Code]
    modules: tuple[str, ...] = ("__main__",)
    invariants: InvariantCheck | None = None


def pickle_definition(definition: PipelineDefinition) -> bytes:
    """Return the templates, a dict by operator, as one blob for ``serialize.load_code``.

    Raises:
        ConfigError: a template cannot be pickled; the message names its operator.
    """
    code = dict(definition.code)
    try:
        return dump_code(code, definition.modules)
    except ConfigError as error:
        raise _culprit(definition, error) from error.__cause__


def _culprit(definition: PipelineDefinition, error: ConfigError) -> ConfigError:
    """Return an error that names the operator that cannot be pickled alone, or ``error``."""
    for name, template in definition.code.items():
        try:
            dump_code(template, definition.modules)
        except ConfigError as alone:
            named = ConfigError(f"operator {name!r} cannot be pickled: {alone.__cause__}")
            for note in getattr(alone, "__notes__", ()):
                named.add_note(note)
            return named
    return error
