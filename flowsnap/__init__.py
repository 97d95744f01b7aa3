"""Stream processing with exactly-once snapshots, in pure Python."""

from flowsnap.api.keyed import KeyedStream
from flowsnap.api.pipeline import Pipeline
from flowsnap.api.stream import Stream
from flowsnap.config import Restart
from flowsnap.errors import ConfigError, FlowsnapError, JobFailed, OperatorError, RestoreError
from flowsnap.operators.process import KeyedProcess

__version__ = "0.1.0"

__all__ = [
    "Pipeline",
    "Stream",
    "KeyedStream",
    "KeyedProcess",
    "Restart",
    "FlowsnapError",
    "ConfigError",
    "OperatorError",
    "JobFailed",
    "RestoreError",
    "__version__",
]
