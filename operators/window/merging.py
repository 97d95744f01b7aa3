"""Which of the windows of a batch are one session?"""

from __future__ import annotations

from collections.abc import Sequence

from flowsnap.operators.window.assigner import Window


def spans_of(windows: Sequence[Window]) -> list[tuple[Window, list[int]]]:
    """Return what windows that overlap or touch add up to, each with their indices.

    Example:
        >>> spans_of([Window(0, 5), Window(20, 25), Window(5, 10)])
        [(Window(start=0, end=10), [0, 2]), (Window(start=20, end=25), [1])]
    """
    spans: list[tuple[Window, list[int]]] = []
    for index in sorted(range(len(windows)), key=windows.__getitem__):
        window = windows[index]
        if spans and window.start <= spans[-1][0].end:
            span, indices = spans[-1]
            indices.append(index)
            spans[-1] = (Window(span.start, max(span.end, window.end)), indices)
        else:
            spans.append((window, [index]))
    return [(span, sorted(indices)) for span, indices in spans]
