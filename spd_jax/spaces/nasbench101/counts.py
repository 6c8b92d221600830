"""What a NAS-Bench-101 cell is made of, as vectors: its paths, and counts of its parts."""

import numpy as np

from spd_jax.archs import unstack
from spd_jax.spaces.nasbench101.graph import (
    ABSENT,
    INTERIOR,
    OPERATIONS,
    OUTPUT,
    VERTICES,
    NasBench101Cell,
    prune,
)

KINDS = len(OPERATIONS) - 1
# A path through n interior vertices has one of 3^n sequences; the shorter ones stand before.
_FIRST = [(KINDS**n - 1) // (KINDS - 1) for n in range(INTERIOR + 2)]
NUM_PATHS = _FIRST[-1]  # 364


def path_encoding(archs: NasBench101Cell) -> np.ndarray:
    """Return which sequences of operations lead from input to output: float64 `[M, 364]`.

    There are 1, 3, 9, 27, 81 and 243 of no, one, ..., five operations (White et al., 2021).
    """
    return np.stack([_path_bits(cell) for cell in unstack(prune(archs))])


def structure(archs: NasBench101Cell) -> np.ndarray:
    """Return counts that no numbering and no unused part changes: float64 `[M, 35]`.

    They are: vertices with each operation (3), vertices, edges, paths from input to output; the
    least and the largest number that a path has of each operation and of all (8); interior
    vertices at each distance from the input, 1 to 5, by the longest way (5); edges by the
    operations at their start and end, input and output included (16).
    """
    return np.stack([_structure(cell) for cell in unstack(prune(archs))])


def paths_of(cell: NasBench101Cell) -> list[list[int]]:
    """Return all paths from input to output of one pruned cell, as interior vertices."""
    matrix = np.asarray(cell.adjacency).tolist()
    found = []
    to_visit: list[tuple[int, ...]] = [(0,)]
    while to_visit:
        path = to_visit.pop()
        for vertex in range(path[-1] + 1, VERTICES):
            if matrix[path[-1]][vertex]:
                to_visit.append((*path, vertex))
        if path[-1] == OUTPUT:
            found.append(list(path[1:-1]))
    return found


def _path_bits(cell: NasBench101Cell) -> np.ndarray:
    operation = np.asarray(cell.operation).tolist()
    bits = np.zeros(NUM_PATHS)
    for path in paths_of(cell):
        number = 0
        for vertex in path:
            number = KINDS * number + operation[vertex - 1] - 1
        bits[_FIRST[len(path)] + number] = 1
    return bits


def _structure(cell: NasBench101Cell) -> np.ndarray:
    adjacency, operation = np.asarray(cell.adjacency), np.asarray(cell.operation)
    kinds = np.arange(1, KINDS + 1)
    vertices = np.sum(operation[:, None] == kinds, axis=0)
    paths = paths_of(cell)
    each = [np.sum(operation[np.array(p, int) - 1, None] == kinds, axis=0) for p in paths]
    on_path = np.column_stack([each, np.sum(each, axis=1)])
    depth = np.zeros(VERTICES, int)
    for vertex in range(1, VERTICES):
        depth[vertex] = max((1 + depth[i] for i in np.flatnonzero(adjacency[:, vertex])), default=0)
    depths = np.bincount(depth[1:OUTPUT][operation != ABSENT], minlength=INTERIOR + 1)[1:]
    start, end = np.nonzero(adjacency)
    label = np.concatenate([[0], operation, [0]])  # the input starts edges only, the output ends
    kinds_of_edges = np.bincount(len(OPERATIONS) * label[start] + label[end], minlength=16)
    return np.concatenate(
        [
            vertices,
            [vertices.sum(), len(start), len(paths)],
            on_path.min(0),
            on_path.max(0),
            depths,
            kinds_of_edges,
        ]
    ).astype(float)
