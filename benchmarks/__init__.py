"""The benchmarks: one file answers one question, which is the first line of its docstring."""
