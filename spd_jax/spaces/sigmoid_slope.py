"""The sigmoid-slope space: a motif is the slope c of sigmoid(c * z)."""

import numpy as np


def table_slopes() -> np.ndarray:
    """Return the 60 slopes of the shipped table, over [0.01, 2.01] `[60]` float64.

    18 lie left of 0.37 (steps of 0.02, around the peak) and 42 from there on
    (steps of 0.04).
    """
    left = 0.01 + 0.02 * np.arange(18)
    right = 0.37 + 0.04 * np.arange(42)
    return np.round(np.concatenate([left, right]), 2)
