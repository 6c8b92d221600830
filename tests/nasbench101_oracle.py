"""NAS-Bench-101 cells as sets of edges, and the same cell spelled in other ways."""

import numpy as np

from spd_jax.spaces.nasbench101 import NasBench101Cell, prune


def paths(edges):
    """Return all paths from vertex 0 to vertex 6 over a set of edges."""
    found, grown = [], [[0]]
    while grown:
        path = grown.pop()
        if path[-1] == 6:
            found.append(path)
        grown += [[*path, end] for start, end in edges if start == path[-1]]
    return found


def edges_of(cell):
    return {(int(i), int(j)) for i, j in zip(*np.nonzero(cell.adjacency), strict=True)}


def twin(cell, rng):
    """Prune a cell, give its vertices other numbers and connect what is left to dead ends."""
    cell = prune(cell)
    edges = edges_of(cell)
    operation = dict(enumerate(np.asarray(cell.operation).tolist(), 1))
    present = [v for v in operation if operation[v]]
    numbers = np.sort(rng.choice(np.arange(1, 6), len(present), replace=False)).tolist()
    order, free = [], set(present)
    while free:  # any vertex whose predecessors all have a number may come next
        ready = sorted(v for v in free if not any((u, v) in edges for u in free))
        order.append(ready[rng.integers(len(ready))])
        free.remove(order[-1])
    renamed = {0: 0, 6: 6} | dict(zip(order, numbers, strict=True))
    adjacency, new = np.zeros((7, 7), np.int32), np.zeros(5, np.int32)
    for start, end in edges:
        adjacency[renamed[start], renamed[end]] = 1
    for vertex in present:
        new[renamed[vertex] - 1] = operation[vertex]
    for vertex in sorted({1, 2, 3, 4, 5} - set(numbers)):
        new[vertex - 1] = rng.integers(0, 4)
        others = [0, *(np.flatnonzero(new[: vertex - 1]) + 1)]
        if new[vertex - 1] and rng.random() < 0.5:  # a dead end, or nothing leads to it
            adjacency[rng.choice(others), vertex] = 1
        elif new[vertex - 1]:
            adjacency[vertex, 6] = 1
    return NasBench101Cell(adjacency, new)
