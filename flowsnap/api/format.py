"""How numbers are written for people: counts, rates, sizes, durations, shares and bars."""

from __future__ import annotations

from rich.text import Text

_DECIMAL = ("", "k", "M", "G", "T")
_BINARY = ("B", "KB", "MB", "GB", "TB")
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def count(value: float) -> str:
    """Return a number of records: ``950``, ``12.3 k``, ``1.20 M``."""
    return _scaled(value, 1000, _DECIMAL)


def rate(per_s: float) -> str:
    """Return a number of records per second: ``950/s``, ``1.20 M/s``."""
    return f"{count(per_s)}/s"


def size(value: int) -> str:
    """Return a number of bytes in units of 1,024: ``512 B``, ``1.50 MB``."""
    return _scaled(value, 1024, _BINARY)


def duration(ms: float) -> str:
    """Return a time span in two units at most: ``85 ms``, ``4.2 s``, ``3 min 05 s``."""
    if ms < 999.5:
        return f"{ms:.0f} ms"
    if ms < 59_950:
        return f"{ms / 1000:.1f} s"
    minutes, seconds = divmod(round(ms / 1000), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"


def percent(share: float) -> str:
    """Return a share (0 to 1) as a whole percentage; 100 % only when it is complete."""
    whole = round(share * 100)
    return f"{99 if whole == 100 and share < 1 else whole} %"


def plural(number: int, noun: str) -> str:
    """Return ``1 worker``, ``2 workers``, ``1,000 workers``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def bar(share: float, width: int, style: str) -> Text:
    """Return a bar of ``width`` columns of which ``share`` (0 to 1; clipped) is filled."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    whole, part = divmod(eighths, 8)
    filled = "█" * whole + (_EIGHTHS[part] if part else "")
    return Text.assemble((filled, style), ("·" * (width - len(filled)), "dim"))


def _scaled(value: float, base: int, units: tuple[str, ...]) -> str:
    if abs(value) < base - 0.5:
        return f"{value:.0f} {units[0]}".rstrip()
    for unit in units[1:]:
        value /= base
        if abs(value) < base - 0.5 or unit == units[-1]:
            break
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f} {unit}"


def printable(text: str) -> str:
    """Return ``text`` with control characters escaped, so that it cannot steer the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
