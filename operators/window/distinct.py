"""HyperLogLog: about how many different values were there?

The hash of a value names one of ``m = 2**precision`` registers by its first bits; the register
keeps the longest run of leading zeros seen in the rest. While few registers are set, the
accumulator is a dict of them; a large one is a bytearray of all.

The standard error is ``1.04 / sqrt(m)``: 0.8 % with the default precision of 14, where an
accumulator takes at most 16 KiB.

Source: Flajolet et al., "HyperLogLog" (AofA 2007); 64-bit hashes and linear counting below 2.5 m as
in Heule et al., "HyperLogLog in Practice" (EDBT 2013), without its table of bias corrections.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from math import log, sqrt
from typing import Any

from flowsnap.core.key import encode_keys
from flowsnap.errors import ConfigError
from flowsnap.operators.selector import Selector
from flowsnap.operators.window.aggregate import Aggregate

PRECISION_MIN, PRECISION_MAX = 4, 18
_SPARSE_SHARE = 16
"""A dict entry takes so many times the room of a register, and more."""


class ApproxDistinctCount(Aggregate):
    """The number of different values, with a standard error of ``1.04 / sqrt(2**precision)``.

    Values are anything that can be a key; equal ones (``1`` and ``1.0``) are one.

    Raises:
        ConfigError: the precision is not between 4 and 18.
    """

    def __init__(self, selector: Selector = None, *, precision: int = 14) -> None:
        super().__init__(selector)
        if not isinstance(precision, int) or not PRECISION_MIN <= precision <= PRECISION_MAX:
            raise ConfigError(
                f"approx distinct count: precision {precision!r} is not between "
                f"{PRECISION_MIN} and {PRECISION_MAX}"
            )
        self.precision = precision

    @property
    def standard_error(self) -> float:
        """The standard deviation of the relative error."""
        return 1.04 / sqrt(1 << self.precision)

    def create(self) -> dict[int, int]:
        return {}

    def add_many(self, accumulator: Any, values: Sequence[Any]) -> Any:
        shift = 64 - self.precision
        low = (1 << shift) - 1
        get = accumulator.get if isinstance(accumulator, dict) else accumulator.__getitem__
        for data in encode_keys(list(set(values))):
            hashed = int.from_bytes(blake2b(data, digest_size=8).digest(), "big")
            rank = shift + 1 - (hashed & low).bit_length()
            register = hashed >> shift
            if rank > (get(register) or 0):
                accumulator[register] = rank
        return self._settled(accumulator)

    def merge(self, one: Any, other: Any) -> Any:
        if isinstance(one, dict):
            one, other = other, one
        return self.absorb(one.copy(), other)

    def absorb(self, accumulator: Any, other: Any) -> Any:
        if not isinstance(other, dict):
            if isinstance(accumulator, dict):
                return self.merge(accumulator, other)
            return bytearray(map(max, accumulator, other))
        get = accumulator.get if isinstance(accumulator, dict) else accumulator.__getitem__
        for register, rank in other.items():
            if rank > (get(register) or 0):
                accumulator[register] = rank
        return self._settled(accumulator)

    def result(self, accumulator: Any) -> int:
        size = 1 << self.precision
        ranks = accumulator.values() if isinstance(accumulator, dict) else accumulator
        zeros = size - len(accumulator) if isinstance(accumulator, dict) else accumulator.count(0)
        missing = size - len(accumulator)
        total: float = missing + sum([2.0**-rank for rank in ranks])
        estimate = _alpha(size) * size * size / total
        if zeros and estimate <= 2.5 * size:
            estimate = size * log(size / zeros)
        return round(estimate)

    def _settled(self, accumulator: Any) -> Any:
        """Return the accumulator in the form that takes less room."""
        if isinstance(accumulator, dict) and len(accumulator) * _SPARSE_SHARE > 1 << self.precision:
            registers = bytearray(1 << self.precision)
            for register, rank in accumulator.items():
                registers[register] = rank
            return registers
        return accumulator


def _alpha(size: int) -> float:
    known = {16: 0.673, 32: 0.697, 64: 0.709}
    return known.get(size) or 0.7213 / (1 + 1.079 / size)
