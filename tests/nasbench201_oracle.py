"""NAS-Bench-201 cells as numbers: what a cell computes when its operations are polynomials.

Every operation is a fixed polynomial modulo a prime that keeps 0, the same on every edge. Two
cells agree at a point exactly when they are the same expression, but for a chance of 1e-18.
"""

import functools
import itertools

import numpy as np

PRIME = 2**61 - 1
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
OPERATIONS = (
    lambda x: 0,
    lambda x: x,
    lambda x: (123456789123 * x**2 + 987654321987 * x**3) % PRIME,
    lambda x: (314159265358 * x**2 + 271828182845 * x**3) % PRIME,
    lambda x: (141421356237 * x**2 + 173205080756 * x**3) % PRIME,
)


def output(cell):
    """Return the number that node 3 has when the input is some number."""
    nodes = [602214076, 0, 0, 0]
    for (start, end), operation in zip(EDGES, cell, strict=True):
        nodes[end] = (nodes[end] + OPERATIONS[operation](nodes[start])) % PRIME
    return nodes[3]


@functools.cache
def twins():
    """Return all cells by the number that they compute."""
    found = {}
    for cell in itertools.product(range(5), repeat=6):
        found.setdefault(output(cell), []).append(cell)
    return found


def twin(cell, rng):
    """Return a random cell among those that compute the same."""
    same = twins()[output(np.asarray(cell).tolist())]
    return np.array(same[rng.integers(len(same))], np.int32)
