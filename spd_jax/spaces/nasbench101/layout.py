"""Where the vertices and edges of a NAS-Bench-101 cell stand in its picture, from top to bottom.

A layered drawing (Sugiyama, Tagawa and Toda, 1981): a vertex stands one level below the lowest
one that it reads; an edge that passes levels holds a lane in each. Vertices and lanes of
a level are ordered so that few edges cross, then moved sideways until edges are short (least
squares) with room between neighbours.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import lsq_linear

from spd_jax.spaces.nasbench101.graph import OUTPUT, VERTICES, NasBench101Cell, prune

# Inches: half of what a vertex and a lane take on their level, room beside it included.
HALF_VERTEX, HALF_LANE = 0.5, 0.14
# How much an edge between vertices, between a vertex and a lane, and between lanes wants to be
# straight.
_WEIGHTS = (1.0, 0.7, 3.0)

Item = tuple[int, ...]  # (vertex,) or the lane (from, to, level)


class Layout(NamedTuple):
    """Where everything stands.

    Attributes:
      x: of every vertex and lane, inches from the input to the right.
      level: of every vertex and lane, 0 for the input.
      edges: what every edge visits from its start to its end.
    """

    x: dict[Item, float]
    level: dict[Item, int]
    edges: list[list[Item]]


def layout(arch: NasBench101Cell) -> Layout:
    """Return where the vertices and edges of one cell stand; what is not used has no place."""
    adjacency = np.asarray(prune(arch).adjacency)
    level: dict[Item, int] = {(0,): 0}
    for vertex in range(1, VERTICES):
        above = [level[int(i),] for i in np.flatnonzero(adjacency[:, vertex])]
        if above:
            level[vertex,] = 1 + max(above)
    edges: list[list[Item]] = []
    for start, end in np.argwhere(adjacency).tolist():
        lanes = [(start, end, i) for i in range(level[start,] + 1, level[end,])]
        level |= {lane: lane[2] for lane in lanes}
        edges.append([(start,), *lanes, (end,)])
    levels = [[item for item in level if level[item] == i] for i in range(level[OUTPUT,] + 1)]
    segments = [pair for edge in edges for pair in itertools.pairwise(edge)]
    _order(levels, segments)
    return Layout(_sideways(levels, segments), level, edges)


def _order(levels: list[list[Item]], segments: list[tuple[Item, Item]]) -> None:
    """Swap two items of a level, in place, while that helps: crossings first, then distances."""
    best = _cost(levels, segments)
    improved = True
    while improved:
        improved = False
        for i, items in enumerate(levels):
            for left, right in itertools.combinations(range(len(items)), 2):
                order = list(levels[i])
                order[left], order[right] = order[right], order[left]
                cost = _cost([*levels[:i], order, *levels[i + 1 :]], segments)
                if cost < best:
                    best, levels[i], improved = cost, order, True


def _cost(levels: Sequence[Sequence[Item]], segments: list[tuple[Item, Item]]) -> tuple[int, float]:
    """Return crossings, and the squares of sideways ways when levels are centred."""
    x, level = {}, {}
    for i, items in enumerate(levels):
        for place, item in enumerate(items):
            x[item], level[item] = place - (len(items) - 1) / 2, i
    start = np.array([x[a] for a, _ in segments])
    end = np.array([x[b] for _, b in segments])
    at = np.array([level[a] for a, _ in segments])
    crossed = (start[:, None] - start) * (end[:, None] - end) < 0
    return int(np.sum(crossed & (at[:, None] == at)) // 2), float(np.sum((start - end) ** 2))


def _sideways(levels: list[list[Item]], segments: list[tuple[Item, Item]]) -> dict[Item, float]:
    """Return x of every item: the sum of squares over segments is least, orders are kept."""
    items = [item for level in levels for item in level]
    column = {item: i for i, item in enumerate(items)}
    half = np.array([HALF_VERTEX if len(item) == 1 else HALF_LANE for item in items])
    # x = offset + steps @ y, where y is the place of each level's first item and the free room
    # before each of the others, which is not negative.
    steps, offset = np.zeros((len(items), len(items))), np.zeros(len(items))
    low = np.full(len(items), -np.inf)
    for level in levels:
        for left, item in enumerate(level):
            i = column[item]
            steps[i, [column[other] for other in level[: left + 1]]] = 1
            if left:
                j = column[level[left - 1]]
                offset[i], low[i] = offset[j] + half[j] + half[i], 0
    ways = np.zeros((len(segments) + 1, len(items)))
    for row, (a, b) in enumerate(segments):
        weight = _WEIGHTS[(len(a) > 1) + (len(b) > 1)]
        ways[row, column[a]], ways[row, column[b]] = weight, -weight
    ways[-1, column[0,]] = 1e-3  # the input stands at 0
    solution = lsq_linear(ways @ steps, -ways @ offset, (low, np.full(len(items), np.inf)))
    x = offset + steps @ solution.x
    return {item: float(x[i] - x[column[0,]]) for item, i in column.items()}
