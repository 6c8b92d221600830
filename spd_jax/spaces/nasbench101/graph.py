"""A cell of NAS-Bench-101 (Ying et al., 2019) as a graph: pruning, canonical form, fingerprint.

Vertex 0 is the input, vertex 6 the output, vertices 1..5 apply an operation each. A cell with
fewer vertices leaves some of 1..5 absent. Edges lead from lower to higher numbers.
"""

import functools
import hashlib
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from spd_jax.errors import UserError

VERTICES, INTERIOR, MAX_EDGES = 7, 5, 9
OUTPUT = VERTICES - 1
OPERATIONS = ("absent", "conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")
ABSENT = 0
UPPER = np.triu_indices(VERTICES, 1)  # the 21 places where an edge can be, row by row


class NasBench101Cell(NamedTuple):
    """An arch, padded to seven vertices.

    Attributes:
      adjacency: int32 `[..., 7, 7]`, 1 where an edge leads from the row's vertex to the
        column's; 0 on and below the diagonal, and in rows and columns of absent vertices.
      operation: int32 `[..., 5]`, index into `OPERATIONS` for vertices 1..5.
    """

    adjacency: Any
    operation: Any


def on_path(adjacency: np.ndarray) -> np.ndarray:
    """Return which vertices lie on a path from input to output: bool `[..., 7]`."""
    edges = np.asarray(adjacency, bool)
    forward = np.zeros(edges.shape[:-1], bool)
    backward = forward.copy()
    forward[..., 0] = backward[..., OUTPUT] = True
    for vertex in range(1, VERTICES):
        forward[..., vertex] = np.any(edges[..., :, vertex] & forward, axis=-1)
        mirrored = OUTPUT - vertex
        backward[..., mirrored] = np.any(edges[..., mirrored, :] & backward, axis=-1)
    return forward & backward


def prune(archs: NasBench101Cell) -> NasBench101Cell:
    """Remove what lies on no path from input to output; vertices keep their numbers.

    A cell without any such path loses all its edges and interior vertices.
    """
    used = on_path(archs.adjacency)
    both = used[..., :, None] & used[..., None, :]
    adjacency = np.where(both, archs.adjacency, 0).astype(np.int32)
    operation = np.where(used[..., 1:OUTPUT], archs.operation, ABSENT).astype(np.int32)
    return NasBench101Cell(adjacency, operation)


def is_valid(archs: NasBench101Cell) -> np.ndarray:
    """Return which cells have a path from input to output and at most 9 edges on such paths."""
    edges = prune(archs).adjacency.sum((-2, -1))
    return np.asarray((edges > 0) & (edges <= MAX_EDGES))


def canonical(arch: NasBench101Cell) -> NasBench101Cell:
    """Return the same arrays for all numberings of one cell, whatever unused parts they have.

    The cell is pruned, its K interior vertices become 1..K, and among all numberings in which
    edges lead upward the one with the smallest operations, then the smallest adjacency bits row
    by row, is taken (ours).
    """
    pruned = prune(arch)
    adjacency, operation = np.asarray(pruned.adjacency), np.asarray(pruned.operation)
    orders = _orders(int(np.count_nonzero(operation)))
    present = np.flatnonzero(operation) + 1
    vertices = np.concatenate([[0], present, np.flatnonzero(operation == ABSENT) + 1, [OUTPUT]])
    numberings = vertices[orders]  # [P, 7]: the vertex that gets each number
    moved = adjacency[numberings[:, :, None], numberings[:, None, :]]
    operations = operation[numberings[:, 1:OUTPUT] - 1]
    bits = moved[:, UPPER[0], UPPER[1]]
    upward = bits.sum(1) == adjacency.sum()
    best = np.argmin(np.where(upward, operations @ _DIGITS + bits @ _BITS, np.inf))
    return NasBench101Cell(moved[best], operations[best])


_BITS = 2.0 ** np.arange(len(UPPER[0]))[::-1]
_DIGITS = 2.0 ** len(UPPER[0]) * 4.0 ** np.arange(INTERIOR)[::-1]


@functools.cache
def _orders(count: int) -> np.ndarray:
    """Return all orders of the first `count` interior vertices: `[P, 7]`."""
    rest = range(count + 1, VERTICES)
    return np.array([[0, *own, *rest] for own in itertools.permutations(range(1, count + 1))])


def from_matrix(matrix: Any, operations: Sequence[str]) -> NasBench101Cell:
    """Read a cell in the benchmark's own form.

    Args:
      matrix: `[V, V]` of 0 and 1, upper-triangular, 2 <= V <= 7.
      operations: names of the V - 2 interior vertices, out of `OPERATIONS[1:]`.

    Returns:
      The cell as it stands, unused vertices included; interior vertices keep their numbers.

    Raises:
      UserError: the matrix or an operation is none of these, or the cell is not valid.
    """
    edges = np.asarray(matrix)
    size = len(edges)
    if edges.shape != (size, size) or not 2 <= size <= VERTICES or len(operations) != size - 2:
        raise UserError(
            f"an adjacency of shape {edges.shape} with {len(operations)} operations is no cell: "
            "give V rows and columns, V from 2 to 7, and V - 2 operations"
        )
    if not np.isin(edges, (0, 1)).all() or np.any(np.tril(edges)):
        raise UserError(
            f"adjacency {edges.tolist()} is no cell: give 0 and 1, ones above the diagonal only"
        )
    for name in operations:
        if name not in OPERATIONS[1:]:
            raise UserError(f"operation {name!r} must be one of {', '.join(OPERATIONS[1:])}")
    places = [*range(size - 1), OUTPUT]
    adjacency = np.zeros((VERTICES, VERTICES), np.int32)
    adjacency[np.ix_(places, places)] = edges
    operation = np.zeros(INTERIOR, np.int32)
    operation[: size - 2] = [OPERATIONS.index(name) for name in operations]
    return checked(NasBench101Cell(adjacency, operation))


def checked(arch: NasBench101Cell) -> NasBench101Cell:
    """Return the arch.

    Raises:
      UserError: it is not valid, or an absent vertex has edges.
    """
    adjacency = np.asarray(arch.adjacency)
    absent = np.flatnonzero(np.asarray(arch.operation) == ABSENT) + 1
    if adjacency[absent].any() or adjacency[:, absent].any():
        raise UserError(
            f"adjacency {adjacency.tolist()} is no cell: give no edges to the absent vertices "
            f"{absent.tolist()}"
        )
    if not is_valid(arch):
        raise UserError(
            f"adjacency {adjacency.tolist()} is no valid cell: give a path from input to output, "
            f"and at most {MAX_EDGES} edges on such paths"
        )
    return arch


def to_matrix(arch: NasBench101Cell) -> tuple[np.ndarray, list[str]]:
    """Return a cell pruned and in the benchmark's own form: int32 `[V, V]` and V - 2 names."""
    adjacency, operation = prune(arch)
    kept = np.array([0, *(np.flatnonzero(operation) + 1), OUTPUT])
    names = [OPERATIONS[i] for i in operation.tolist() if i != ABSENT]
    return adjacency[np.ix_(kept, kept)], names


def fingerprint(arch: NasBench101Cell) -> str:
    """Return the benchmark's own name of a cell, the same for all numberings of its vertices.

    Every pruned vertex starts from the hash of its degrees and its label, and takes part in V
    rounds of hashing with its neighbours' (Ying et al., 2019, and the benchmark's files).
    """
    matrix, names = to_matrix(arch)
    labels = [-1, *(OPERATIONS.index(name) - 1 for name in names), -2]
    edges = matrix.tolist()  # plain integers: NumPy prints its own otherwise
    size = len(edges)
    into = [[i for i in range(size) if edges[i][j]] for j in range(size)]
    out = [[j for j in range(size) if edges[i][j]] for i in range(size)]
    hashes = [_md5(str((len(out[v]), len(into[v]), labels[v]))) for v in range(size)]
    for _ in range(size):
        hashes = [
            _md5(
                "|".join(
                    ["".join(sorted(hashes[i] for i in near)) for near in (into[v], out[v])]
                    + [hashes[v]]
                )
            )
            for v in range(size)
        ]
    return _md5(str(sorted(hashes)))


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
