"""Patterns: sequences of records of a key that are looked for, and what comes out for each."""

from flowsnap.operators.pattern.definition import Pattern
from flowsnap.operators.pattern.nfa import Match
from flowsnap.operators.pattern.operator import LATE, MatchPattern
from flowsnap.operators.pattern.skip import Skip

__all__ = ["LATE", "Match", "MatchPattern", "Pattern", "Skip"]
