"""Drivers: the loops that carry out what the core decides."""
