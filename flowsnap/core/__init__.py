"""Pure data and state machines: no I/O, no clock, no thread, no chance."""
