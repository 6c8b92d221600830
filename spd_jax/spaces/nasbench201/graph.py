"""A cell of NAS-Bench-201 (Dong and Yang, 2020): four nodes, an operation on each edge.

Node 0 is the input and node 3 the output. Every node but the first is the sum of what its
incoming edges bring: each edge applies its operation to the node where it starts. A cell is
int32 `[6]`, an index into `OPERATIONS` for each of `EDGES`; there are 5^6 = 15,625 of them.
"""

import functools
import itertools
from typing import Any

import numpy as np

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
# The four ways from input to output, as places in `EDGES`.
PATHS = ((3,), (0, 4), (1, 5), (0, 2, 5))
NONE, SKIP = 0, 1
# A cell is also a number in base 5, in which the first edge counts most.
PLACE_VALUES = len(OPERATIONS) ** np.arange(len(EDGES))[::-1]


def live_paths(archs: np.ndarray) -> np.ndarray:
    """Return which of the four `PATHS` of cells `[M, 6]` have no `none`: bool `[M, 4]`."""
    cells = np.asarray(archs)
    return np.stack([np.all(cells[:, path] != NONE, axis=1) for path in PATHS], axis=1)


def live_edges(archs: np.ndarray) -> np.ndarray:
    """Return which of the six edges of cells `[M, 6]` are on a live path: bool `[M, 6]`."""
    member = np.array([[edge in path for edge in range(len(EDGES))] for path in PATHS])
    return live_paths(archs) @ member


def cells_of(numbers: np.ndarray) -> np.ndarray:
    """Return the cells with these numbers in base 5: int32 `[..., 6]`."""
    return (np.asarray(numbers)[..., None] // PLACE_VALUES % len(OPERATIONS)).astype(np.int32)


def function_of(archs: np.ndarray) -> np.ndarray:
    """Return the number of the function that cells `[..., 6]` compute: `[...]`.

    It is the number of the first cell that computes it.
    """
    return first_cells()[np.asarray(archs) @ PLACE_VALUES]


@functools.cache
def first_cells() -> np.ndarray:
    """Return for all 15,625 cells, in order, the number of the first with the same function.

    There are 4,930 functions. The benchmark's authors count 6,466: their text of a function
    keeps zeros in its sums and does not sort what a skip passes on.
    """
    first: dict[tuple[Any, ...], int] = {}
    cells = itertools.product(range(len(OPERATIONS)), repeat=len(EDGES))
    return np.array([first.setdefault(_output(cell), i) for i, cell in enumerate(cells)])


def _output(cell: tuple[int, ...]) -> tuple[Any, ...]:
    """Return what node 3 computes.

    A node is the sorted terms of its sum. A term is `()`, the input, or an operation and the
    terms of the node that it reads. `none` and whatever reads nothing bring no term, and
    `skip_connect` brings the terms of the node where it starts. Every convolution has weights
    of its own; but one that a sum contains twice is told from no pair of equal ones.
    """
    nodes: list[list[Any]] = [[()], [], [], []]
    for (start, end), operation in zip(EDGES, cell, strict=True):
        if operation == SKIP:
            nodes[end] += nodes[start]
        elif operation != NONE and nodes[start]:
            nodes[end].append((operation, *sorted(nodes[start])))
    return tuple(sorted(nodes[3]))
