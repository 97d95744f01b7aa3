"""The operator library: one operator, one file.

Installed as ``flowsnap.operators``; see ``CONTRIBUTING.md`` for how to add one.
"""

from flowsnap.operators.aggregate import Count, Fold, Max, Min, Sum
from flowsnap.operators.combine import Combine
from flowsnap.operators.filter import Filter
from flowsnap.operators.flat_map import FlatMap
from flowsnap.operators.key_by import KeyBy
from flowsnap.operators.map import Map
from flowsnap.operators.process import KeyedProcess, Process
from flowsnap.operators.reduce import Reduce

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
    "Process",
    "KeyedProcess",
]

if __name__ != "flowsnap.operators":
    raise ImportError(f"import flowsnap.operators, not {__name__}")
