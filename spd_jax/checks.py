"""Whether a setting holds what it says: a whole number, a number. For `check`s before any work."""

from typing import Any

import numpy as np

LARGEST_COUNT = 2**31 - 1
LARGEST_NUMBER = float(np.finfo(np.float32).max)


def is_count(value: Any, least: int, most: int = LARGEST_COUNT) -> bool:
    """Return whether a value is a whole number, and no bool, from `least` to `most`.

    >>> is_count(3, 1), is_count(0, 1), is_count(1.5, 1), is_count(True, 1)
    (True, False, False, False)
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return bool(whole and least <= value <= most)


def is_number(value: Any, least: float = 0.0, most: float = LARGEST_NUMBER) -> bool:
    """Return whether a value is one real number, and no bool, from `least` to `most`.

    A NaN is none, and neither is what overflows in float32; an array without axes is one.

    >>> is_number(0.5), is_number(float("nan")), is_number("0.5")
    (True, False, False)
    """
    if isinstance(value, bool | str | bytes) or not hasattr(value, "__float__"):
        return False
    if np.shape(value) != () or np.iscomplexobj(value) or np.asarray(value).dtype.kind not in "iuf":
        return False
    return bool(least <= float(value) <= most)
