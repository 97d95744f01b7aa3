"""An object that a task shares with the process that made it, where the task runs in that process.

What a pipeline holds travels to its tasks as a copy. A queue cannot be copied, and a function that
is to append to a list of the notebook would append to a copy of it. So they travel by their number,
which is looked up where they arrive; only in another process it is the copy that counts.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4
from weakref import WeakValueDictionary

from flowsnap.errors import ConfigError
from flowsnap.serialize import dump, load

_HERE: WeakValueDictionary[str, InProcess] = WeakValueDictionary()


class InProcess:
    """Holds ``value``; a copy of the holder has the same one in this process, else a copy of it.

    For as long as there is a holder in this process. ``what`` names the value in errors.
    """

    def __init__(self, value: Any, what: str, id_: str | None = None) -> None:
        self.value = value
        self._what = what
        self._id = uuid4().hex if id_ is None else id_
        _HERE[self._id] = self

    def __reduce__(self) -> tuple[Any, ...]:
        try:
            data: bytes | None = dump(self.value)
        except Exception:  # A lock, a socket: what pickles raise has no common class.
            data = None
        return _arrived, (self._id, self._what, data)


def _arrived(id_: str, what: str, data: bytes | None) -> InProcess:
    here = _HERE.get(id_)
    if here is not None:
        return here
    if data is None:
        raise ConfigError(f"a {what} stays in the process that made it, and cannot be copied").hint(
            "run the job with workers=0"
        )
    return InProcess(load(data), what, id_)
