"""The operator library: one operator, one file.

Installed as ``flowsnap.operators``; see ``CONTRIBUTING.md`` for how to add one.
"""

if __name__ != "flowsnap.operators":
    raise ImportError(f"import flowsnap.operators, not {__name__}")
