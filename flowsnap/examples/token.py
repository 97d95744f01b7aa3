"""A token that travels between two processes: every snapshot shows it exactly once.

``python -m flowsnap.examples.token``; the network itself is in ``token_pair.py``.
"""

import sys

if __name__ == "token":
    # A script of this folder was run by its path, which puts the folder in front of the standard
    # library: hand over to the module of this name that everybody else means.
    folder = sys.path.pop(0)
    del sys.modules[__name__]
    import token  # noqa: F401 - which takes this module's place

    sys.path.insert(0, folder)
else:
    from flowsnap.examples.token_pair import main, network, pipeline, place

    __all__ = ["main", "network", "pipeline", "place"]

    if __name__ == "__main__":
        main()
