"""Which subtask owns which key groups?

Keyed state is handed out in key groups, not in keys: a key belongs for ever to one of
``max_parallelism`` groups, and only the assignment of groups to subtasks changes when a job is
rescaled. Every subtask owns one contiguous range, so that restoring it is one scan per old file.

Invariant: the ranges of subtasks 0 to ``parallelism - 1`` cover ``[0, max_parallelism)`` in order,
without gap or overlap, their lengths differ by at most one, and ``owner`` is their inverse.

Which group a key belongs to is not decided here.

Source: Flink, ``KeyGroupRangeAssignment``. Deviation: ranges are half-open.

>>> [key_group_range(subtask, 3, 8) for subtask in range(3)]
[(0, 3), (3, 6), (6, 8)]
>>> [owner(key_group, 3, 8) for key_group in range(8)]
[0, 0, 0, 1, 1, 1, 2, 2]
"""

from __future__ import annotations

from flowsnap.errors import LocalProtocolError


def key_group_range(subtask: int, parallelism: int, max_parallelism: int) -> tuple[int, int]:
    """Return the key groups ``[start, end)`` that a subtask owns.

    Raises:
        LocalProtocolError: there is no such subtask, or the parallelism is out of bounds.
    """
    _check_parallelism(parallelism, max_parallelism)
    if not 0 <= subtask < parallelism:
        raise LocalProtocolError(f"there is no subtask {subtask} of {parallelism}")
    return (
        -(-subtask * max_parallelism // parallelism),
        -(-(subtask + 1) * max_parallelism // parallelism),
    )


def owner(key_group: int, parallelism: int, max_parallelism: int) -> int:
    """Return the subtask that owns ``key_group``.

    Raises:
        LocalProtocolError: there is no such key group, or the parallelism is out of bounds.
    """
    _check_parallelism(parallelism, max_parallelism)
    if not 0 <= key_group < max_parallelism:
        raise LocalProtocolError(f"there is no key group {key_group} of {max_parallelism}")
    return key_group * parallelism // max_parallelism


def _check_parallelism(parallelism: int, max_parallelism: int) -> None:
    if not 1 <= parallelism <= max_parallelism:
        raise LocalProtocolError(f"parallelism {parallelism} is not in 1 to {max_parallelism}")
