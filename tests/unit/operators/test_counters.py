"""What the operators count themselves, for the status of a job."""

from __future__ import annotations
