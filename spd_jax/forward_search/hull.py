"""Models of different cost: the lower hull, the band above it, and which parent grows next.

The paper leaves this to its appendix; the rules are the released code's, read in its port, too.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

BAND = 0.025  # a model may be worse than the hull by this share of the hull's error


def lower_hull(costs: ArrayLike, errors: ArrayLike) -> list[int]:
    """Return the places of the lower convex hull, from the cheapest to the best model.

    The hull is cut where the error would rise again: a dearer and worse model is on no hull.

    Args:
      costs: multiply-adds `[K]`.
      errors: `[K]`, lower is better; a point that is not finite is never on the hull.

    Returns:
      Places in order of cost; of equal points the first.

    >>> lower_hull([1, 2, 3, 4], [0.5, 0.4, 0.1, 0.2])
    [0, 2]
    """
    x, y = np.asarray(costs, float), np.asarray(errors, float)
    known = [i for i in range(len(x)) if np.isfinite(x[i]) and np.isfinite(y[i])]
    hull: list[int] = []
    for i in sorted(known, key=lambda i: (x[i], y[i], i)):
        if hull and y[i] >= y[hull[-1]]:
            continue  # dearer, or as dear, and no better
        while len(hull) > 1 and _is_above(x, y, hull[-2], hull[-1], i):
            hull.pop()
        hull.append(i)
    return hull


def _is_above(x: np.ndarray, y: np.ndarray, first: int, middle: int, last: int) -> bool:
    """Return whether the middle point lies on or above the line through the two others."""
    rise = (y[last] - y[first]) * (x[middle] - x[first])
    return bool((y[middle] - y[first]) * (x[last] - x[first]) >= rise)


def hull_at(costs: ArrayLike, errors: ArrayLike, at: ArrayLike) -> np.ndarray:
    """Return the hull's error at costs `[...]`; beyond its ends, that of its nearest end."""
    hull = lower_hull(costs, errors)
    x, y = np.asarray(costs, float)[hull], np.asarray(errors, float)[hull]
    return np.interp(np.asarray(at, float), x, y)


def in_band(costs: ArrayLike, errors: ArrayLike, band: float = BAND) -> list[int]:
    """Return the places of the models whose error is at most (1 + band) times the hull's.

    Args:
      costs: multiply-adds `[K]`.
      errors: `[K]`, at least 0.
      band: 0 keeps the hull's own points, and what ties with it.

    Returns:
      Places in ascending order; all points of the hull are among them.
    """
    x, y = np.asarray(costs, float), np.asarray(errors, float)
    hull = lower_hull(x, y)
    if not hull:
        return []
    with np.errstate(invalid="ignore"):
        inside = np.isfinite(x) & (y <= (1 + band) * hull_at(x, y, x))
    return sorted({*np.flatnonzero(inside).tolist(), *hull})


def choose_parent(
    costs: Sequence[float], uses: Sequence[int], generator: np.random.Generator
) -> int:
    """Return the place of the model that grows next.

    Walk from the most to the least expensive model and take each with probability
    1 / (uses + 1); walk again until one is taken. So a model that never grew ends every walk.

    Args:
      costs: multiply-adds of the models in the band `[K]`; of equal ones the later comes first.
      uses: how often each has grown `[K]`.
      generator: consumed.
    """
    order = sorted(range(len(costs)), key=lambda i: (-costs[i], -i))
    while True:
        for i in order:
            if generator.random() < 1 / (uses[i] + 1):
                return i
