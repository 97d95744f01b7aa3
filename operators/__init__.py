"""The operator library: one operator, one file.

Installed as ``flowsnap.operators``; see ``CONTRIBUTING.md`` for how to add one.
"""

from flowsnap.operators.aggregate import Count, Fold, Max, Min, Sum
from flowsnap.operators.async_map import AsyncMap
from flowsnap.operators.broadcast import BroadcastContext, BroadcastProcess, ProcessWithBroadcast
from flowsnap.operators.co_process import CoProcess, ProcessBoth
from flowsnap.operators.combine import Combine
from flowsnap.operators.deduplicate import Deduplicate
from flowsnap.operators.filter import Filter
from flowsnap.operators.flat_map import FlatMap
from flowsnap.operators.join import (
    CoGroup,
    IntervalJoin,
    LookupCache,
    LookupJoin,
    LookupRetry,
    StreamJoin,
    TemporalJoin,
    WindowJoin,
)
from flowsnap.operators.key_by import KeyBy
from flowsnap.operators.map import Map
from flowsnap.operators.map_batches import MapBatches
from flowsnap.operators.over import OverRange, OverRows
from flowsnap.operators.pattern import MatchPattern, Pattern, Skip
from flowsnap.operators.process import KeyedProcess, Process, ProcessEach, ProcessFunction
from flowsnap.operators.process_context import ProcessContext
from flowsnap.operators.rate_limit import RateLimit
from flowsnap.operators.reduce import Reduce
from flowsnap.operators.side_output import OutputTag, SplitBy
from flowsnap.operators.stateful_map import StatefulMap
from flowsnap.operators.top_n import TopN
from flowsnap.operators.watermarks import (
    AssignTimestamps,
    WatermarkStrategy,
    bounded,
    monotonous,
    punctuated,
)
from flowsnap.operators.window import (
    Global,
    Session,
    SessionProcessingTime,
    Sliding,
    SlidingCount,
    SlidingProcessingTime,
    Tumbling,
    TumblingCount,
    TumblingProcessingTime,
    Window,
    WindowProcess,
    WindowResult,
)

__all__ = [
    "Map",
    "Filter",
    "FlatMap",
    "KeyBy",
    "Reduce",
    "Count",
    "Sum",
    "Min",
    "Max",
    "Fold",
    "Combine",
    "AsyncMap",
    "MapBatches",
    "RateLimit",
    "StatefulMap",
    "Deduplicate",
    "TopN",
    "OverRows",
    "OverRange",
    "Process",
    "KeyedProcess",
    "ProcessContext",
    "ProcessEach",
    "ProcessFunction",
    "ProcessBoth",
    "CoProcess",
    "ProcessWithBroadcast",
    "BroadcastContext",
    "BroadcastProcess",
    "OutputTag",
    "SplitBy",
    "AssignTimestamps",
    "WatermarkStrategy",
    "bounded",
    "monotonous",
    "punctuated",
    "Tumbling",
    "TumblingProcessingTime",
    "Sliding",
    "SlidingProcessingTime",
    "Session",
    "SessionProcessingTime",
    "TumblingCount",
    "SlidingCount",
    "Global",
    "Window",
    "WindowProcess",
    "WindowResult",
    "IntervalJoin",
    "WindowJoin",
    "CoGroup",
    "StreamJoin",
    "TemporalJoin",
    "LookupJoin",
    "LookupCache",
    "LookupRetry",
    "MatchPattern",
    "Pattern",
    "Skip",
]

if __name__ != "flowsnap.operators":
    raise ImportError(f"import flowsnap.operators, not {__name__}")
