"""Windows: which there are, what is computed of them, and when it comes out.

``Count``, ``Sum``, ``Min`` and ``Max`` are those for windows; the rolling ones of the same names
are in ``flowsnap.operators``.
"""

from flowsnap.operators.window.aggregate import (
    Aggregate,
    CollectList,
    Count,
    DistinctCount,
    First,
    Last,
    Max,
    Mean,
    Min,
    Reduce,
    Sum,
    TopK,
)
from flowsnap.operators.window.assigner import (
    ALL_TIME,
    Assigner,
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
)
from flowsnap.operators.window.continuous import (
    ContinuousEventTimeTrigger,
    ContinuousProcessingTimeTrigger,
)
from flowsnap.operators.window.distinct import ApproxDistinctCount
from flowsnap.operators.window.evictor import CountEvictor, Evictor, TimeEvictor
from flowsnap.operators.window.function import WindowProcess
from flowsnap.operators.window.result import WindowResult
from flowsnap.operators.window.trigger import (
    CountTrigger,
    EventTimeTrigger,
    ProcessingTimeTrigger,
    PurgingTrigger,
    Trigger,
    TriggerContext,
    TriggerResult,
)

__all__ = [
    "Tumbling",
    "TumblingProcessingTime",
    "Sliding",
    "SlidingProcessingTime",
    "Session",
    "SessionProcessingTime",
    "TumblingCount",
    "SlidingCount",
    "Global",
    "Assigner",
    "Window",
    "ALL_TIME",
    "WindowResult",
    "WindowProcess",
    "Aggregate",
    "Sum",
    "Count",
    "Min",
    "Max",
    "Mean",
    "First",
    "Last",
    "TopK",
    "CollectList",
    "DistinctCount",
    "ApproxDistinctCount",
    "Reduce",
    "Trigger",
    "TriggerContext",
    "TriggerResult",
    "EventTimeTrigger",
    "ProcessingTimeTrigger",
    "CountTrigger",
    "ContinuousEventTimeTrigger",
    "ContinuousProcessingTimeTrigger",
    "PurgingTrigger",
    "Evictor",
    "CountEvictor",
    "TimeEvictor",
]
