"""Numbers at the door: one that must be whole is, one that must be a number is none of `None` and NaN."""

import math
from numbers import Integral, Real
from typing import Any

MOST_ITERATIONS = 2**31 - 1
MOST_SEED = 2**32 - 1


def whole(name: str, value: Any, least: int = 1, most: int = MOST_ITERATIONS) -> int:
    """`value` as an `int`; 20.0 is 20. Raises `ValueError`, naming it, for what is not whole or out of range."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not _finite(value) or value != int(value) or not least <= value <= most:
        limit = "" if not is_number or value <= most else f", and at most {most:,}"
        raise ValueError(f"`{name}` is {value!r}; expected a whole number, {least} or more{limit}")
    return int(value)


def number(name: str, value: Any, least: float = 0.0, below: float = math.inf) -> float | int:
    """`value`, a finite number; raises `ValueError`, naming it, for another, or one that is out of range."""
    if not isinstance(value, Real) or isinstance(value, bool) or not _finite(value) or not least <= value < below:
        limit = f" and less than {below:g}" if below < math.inf else ""
        raise ValueError(f"`{name}` is {value!r}; expected a finite number, {least:g} or more{limit}")
    return int(value) if isinstance(value, Integral) else float(value)


def _finite(value):
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return isinstance(value, Integral)
