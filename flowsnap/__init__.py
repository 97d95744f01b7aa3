"""Stream processing with exactly-once snapshots, in pure Python."""

__version__ = "0.1.0"
