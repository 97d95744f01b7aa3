"""Copy: JSON lines through a function into JSON lines, each record exactly once.

``python -m flowsnap.examples.copy INPUT OUTPUT``; the pipeline itself is in ``copy_lines.py``.
"""

import sys

if __name__ == "copy":
    # A script of this folder was run by its path, which puts the folder in front of the standard
    # library: hand over to the module of this name that everybody else means.
    folder = sys.path.pop(0)
    del sys.modules[__name__]
    import copy  # noqa: F401 - which takes this module's place

    sys.path.insert(0, folder)
else:
    from flowsnap.examples.copy_lines import pipeline

    if __name__ == "__main__":
        pipeline(*sys.argv[1:]).run()
