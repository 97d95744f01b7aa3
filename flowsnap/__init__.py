"""Stream processing with exactly-once snapshots, in pure Python.

The names here are imported when they are first used: a command, a worker or a test run pays for
what it needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowsnap.api.keyed import KeyedStream
    from flowsnap.api.pipeline import Pipeline
    from flowsnap.api.stream import Stream
    from flowsnap.api.timed import split
    from flowsnap.config import Restart
    from flowsnap.core.expiry import TTL
    from flowsnap.errors import ConfigError, FlowsnapError, JobFailed, OperatorError, RestoreError
    from flowsnap.operators.broadcast import BroadcastContext, BroadcastProcess
    from flowsnap.operators.co_process import CoProcess
    from flowsnap.operators.pattern import Pattern, Skip
    from flowsnap.operators.process import KeyedProcess, ProcessFunction
    from flowsnap.operators.process_context import ProcessContext
    from flowsnap.operators.side_output import OutputTag
    from flowsnap.operators.watermarks import WatermarkStrategy, bounded, monotonous, punctuated
    from flowsnap.operators.window import Session, Sliding, Tumbling, WindowProcess, WindowResult

__version__ = "0.1.0"

__all__ = [
    "Pipeline",
    "Stream",
    "KeyedStream",
    "KeyedProcess",
    "ProcessContext",
    "ProcessFunction",
    "CoProcess",
    "BroadcastContext",
    "BroadcastProcess",
    "OutputTag",
    "split",
    "WatermarkStrategy",
    "bounded",
    "monotonous",
    "punctuated",
    "Tumbling",
    "Sliding",
    "Session",
    "WindowProcess",
    "WindowResult",
    "Pattern",
    "Skip",
    "TTL",
    "Restart",
    "FlowsnapError",
    "ConfigError",
    "OperatorError",
    "JobFailed",
    "RestoreError",
    "__version__",
]

_HOME = {
    "KeyedStream": "flowsnap.api.keyed",
    "Pipeline": "flowsnap.api.pipeline",
    "Stream": "flowsnap.api.stream",
    "split": "flowsnap.api.timed",
    "Restart": "flowsnap.config",
    "TTL": "flowsnap.core.expiry",
    "ConfigError": "flowsnap.errors",
    "FlowsnapError": "flowsnap.errors",
    "JobFailed": "flowsnap.errors",
    "OperatorError": "flowsnap.errors",
    "RestoreError": "flowsnap.errors",
    "BroadcastContext": "flowsnap.operators.broadcast",
    "BroadcastProcess": "flowsnap.operators.broadcast",
    "CoProcess": "flowsnap.operators.co_process",
    "Pattern": "flowsnap.operators.pattern",
    "Skip": "flowsnap.operators.pattern",
    "KeyedProcess": "flowsnap.operators.process",
    "ProcessFunction": "flowsnap.operators.process",
    "ProcessContext": "flowsnap.operators.process_context",
    "OutputTag": "flowsnap.operators.side_output",
    "WatermarkStrategy": "flowsnap.operators.watermarks",
    "bounded": "flowsnap.operators.watermarks",
    "monotonous": "flowsnap.operators.watermarks",
    "punctuated": "flowsnap.operators.watermarks",
    "Session": "flowsnap.operators.window",
    "Sliding": "flowsnap.operators.window",
    "Tumbling": "flowsnap.operators.window",
    "WindowProcess": "flowsnap.operators.window",
    "WindowResult": "flowsnap.operators.window",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
