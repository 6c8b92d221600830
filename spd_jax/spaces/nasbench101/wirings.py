"""All wirings of a pruned, valid cell: 13,839 adjacencies, from which the space draws.

A wiring is an adjacency whose every present vertex lies on a path from input to output, with at
most nine edges. Which of the vertices 1..5 are present is part of it.
"""

import dataclasses
import functools

import numpy as np

from spd_jax.spaces.nasbench101.graph import (
    ABSENT,
    INTERIOR,
    MAX_EDGES,
    OPERATIONS,
    OUTPUT,
    UPPER,
    VERTICES,
    NasBench101Cell,
)

_PLACE_VALUES = 2 ** np.arange(len(UPPER[0]))[::-1]


@dataclasses.dataclass(frozen=True)
class Wirings:
    """The catalogue, in ascending order of code.

    Attributes:
      adjacency: int32 `[W, 7, 7]`.
      present: which of the vertices 1..5 there are, bool `[W, 5]`.
      code: the bits above the diagonal, row by row, as a number, int64 `[W]`.
      chance: probability of each wiring when all numberings of all cells are equally likely and
        the interior vertices of a cell are 1..K, float64 `[W]`.
    """

    adjacency: np.ndarray
    present: np.ndarray
    code: np.ndarray
    chance: np.ndarray

    def take(self, chosen: np.ndarray, operation: np.ndarray) -> NasBench101Cell:
        """Return cells `[M]` with the wirings `chosen` `[M]`; absent vertices lose `operation`."""
        operation = np.where(self.present[chosen], operation, ABSENT)
        return NasBench101Cell(self.adjacency[chosen], operation.astype(np.int32))


def wiring_code(adjacency: np.ndarray) -> np.ndarray:
    """Return the bits of adjacencies `[..., 7, 7]` above the diagonal as numbers, int64 `[...]`."""
    return np.asarray(adjacency)[..., UPPER[0], UPPER[1]] @ _PLACE_VALUES


@functools.cache
def wirings() -> Wirings:
    """Return the catalogue; it is made at the first call, in a fraction of a second."""
    found = _columns()
    adjacency = np.zeros((len(found), VERTICES, VERTICES), np.int32)
    into = np.array(found)  # [W, 6]
    for vertex in range(1, VERTICES):
        adjacency[:, :, vertex] = into[:, vertex - 1, None] >> np.arange(VERTICES) & 1
    code = wiring_code(adjacency)
    order = np.argsort(code)
    present = into[order, :INTERIOR] > 0
    first = np.all(present[:, :-1] >= present[:, 1:], axis=1)  # numbered 1..K
    ways = first * float(len(OPERATIONS) - 1) ** present.sum(1)
    return Wirings(adjacency[order], present, code[order], ways / ways.sum())


def _columns() -> list[tuple[int, ...]]:
    """Return for each wiring the edges into vertices 1..6: bit v of a number is vertex v."""
    partial: list[tuple[int, ...]] = [()]
    for vertex in range(1, VERTICES):
        extended = []
        for columns in partial:
            spare = MAX_EDGES - sum(map(int.bit_count, columns))
            sources = 1 + sum(2**v for v, column in enumerate(columns, 1) if column)
            for new in range(vertex == OUTPUT, 2**vertex):
                if new & ~sources == 0 and new.bit_count() <= spare:
                    extended.append((*columns, new))
        partial = extended
    return [columns for columns in partial if _all_are_read(columns)]


def _all_are_read(columns: tuple[int, ...]) -> bool:
    """Return whether input and every present interior vertex have an edge leading on."""
    read = functools.reduce(int.__or__, columns)
    return all(read >> v & 1 for v, into in enumerate((1, *columns[:-1])) if into)
