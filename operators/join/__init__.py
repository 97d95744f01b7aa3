"""Joins: operators with two inputs, and the lookup in an outside table."""

from flowsnap.operators.join.co_group import CoGroup
from flowsnap.operators.join.interval_join import IntervalJoin
from flowsnap.operators.join.lookup_join import LookupCache, LookupJoin, LookupRetry
from flowsnap.operators.join.stream_join import StreamJoin
from flowsnap.operators.join.temporal_join import TemporalJoin
from flowsnap.operators.join.window_join import WindowJoin

__all__ = [
    "IntervalJoin",
    "WindowJoin",
    "CoGroup",
    "StreamJoin",
    "TemporalJoin",
    "LookupJoin",
    "LookupCache",
    "LookupRetry",
]
