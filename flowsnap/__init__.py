"""Stream processing with exactly-once snapshots, in pure Python."""

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
