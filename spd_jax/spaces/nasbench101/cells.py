"""The space of NAS-Bench-101 (Ying et al., 2019): 423,624 cells of up to seven vertices.

`graph` says what a cell is. Every cell that the space makes is valid and pruned: there is a
path from input to output, everything lies on one, and there are at most nine edges.
"""

import dataclasses
import re
from typing import Any

import jax
import numpy as np

from spd_jax import archs as batches
from spd_jax.axes import Key
from spd_jax.errors import UserError
from spd_jax.spaces.nasbench101 import graph
from spd_jax.spaces.nasbench101.graph import INTERIOR, OPERATIONS, OUTPUT, UPPER, NasBench101Cell

NAMES = ("-", "conv3x3", "conv1x1", "maxpool3x3")  # of `OPERATIONS`, in a cell's text
EDGES = len(UPPER[0])
_TRIES = 20  # fruitless draws until mutation becomes small, and crossover gives up


@dataclasses.dataclass(frozen=True)
class NasBench101Space:
    """All cells of NAS-Bench-101, a `motif.SearchSpace` with every optional ability.

    Attributes:
      mutation_rate: probability that `mutate` changes a place where an edge can be, or a
        vertex, besides the one place or vertex that it changes anyway; 0.05 is ours.
      name: name in ledgers and tables.
    """

    mutation_rate: float = 0.05
    name: str = dataclasses.field(default="nasbench101", init=False)

    def __post_init__(self) -> None:
        """Refuse a rate that is no probability."""
        if not 0 <= self.mutation_rate <= 1:
            raise UserError(f"mutation_rate={self.mutation_rate} must lie between 0 and 1")

    def sample(self, key: Key, count: int) -> NasBench101Cell:
        """Draw cells `[count]`, all numberings of all cells equally likely; consumes `key`.

        Nine of ten have seven vertices, as in the benchmark; its own random search
        prunes random matrices and prefers small cells.
        """
        rng = _generator(key)
        adjacency, operation = graph.all_wirings()
        present = operation > graph.ABSENT
        ways = 3.0 ** present.sum(1)
        chosen = rng.choice(len(ways), count, p=ways / ways.sum())
        drawn = rng.integers(1, len(OPERATIONS), (count, INTERIOR))
        operation = np.where(present[chosen], drawn, graph.ABSENT).astype(np.int32)
        return NasBench101Cell(adjacency[chosen], operation)

    def mutate(self, key: Key, archs: NasBench101Cell) -> NasBench101Cell:
        """Change one thing and every other with probability `mutation_rate`; consumes `key`.

        The interior vertices are first spread at random over the numbers 1..5, in their order.
        Then an edge appears or disappears, a vertex changes its operation, or an absent vertex
        appears between two others. What is no valid cell, or the parent itself, is drawn again.
        """
        rng = _generator(key)
        parents = graph.prune(archs)
        mutants = batches.take(parents, slice(None))
        todo = np.arange(batches.count(parents))
        tries = 0
        while len(todo):
            spread = _spread(rng, batches.take(parents, todo))
            rate = self.mutation_rate if tries < _TRIES else 0.0
            drawn = graph.prune(_changed(rng, spread, rate))
            good = graph.is_valid(drawn) & ~_equal(drawn, spread)
            for leaf, new in zip(mutants, drawn, strict=True):
                leaf[todo[good]] = new[good]
            todo, tries = todo[~good], tries + 1
        return mutants

    def crossover(
        self, key: Key, first: NasBench101Cell, second: NasBench101Cell
    ) -> NasBench101Cell:
        """Take every vertex, with the edges into it, from either parent; consumes `key`.

        A child that is not valid is drawn again, and is `first` after twenty draws.
        """
        rng = _generator(key)
        first, second = graph.prune(first), graph.prune(second)
        children = batches.take(first, slice(None))
        todo = np.arange(batches.count(first))
        for _ in range(_TRIES):
            one, two = batches.take(first, todo), batches.take(second, todo)
            from_first = rng.random((len(todo), OUTPUT)) < 0.5  # vertices 1..6
            columns = np.insert(from_first, 0, True, axis=1)[:, None, :]
            adjacency = np.where(columns, one.adjacency, two.adjacency)
            operation = np.where(from_first[:, :INTERIOR], one.operation, two.operation)
            drawn = graph.prune(NasBench101Cell(adjacency, operation))
            good = graph.is_valid(drawn)
            for leaf, new in zip(children, drawn, strict=True):
                leaf[todo[good]] = new[good]
            todo = todo[~good]
        return children

    def encode(self, arch: NasBench101Cell) -> str:
        """Return `110000.10010.0001.010.01.1|conv3x3,conv1x1,maxpool3x3,-,-`.

        On the left the rows of the adjacency above the diagonal, on the right what vertices
        1..5 do; a dash is an absent vertex.
        """
        rows = np.asarray(arch.adjacency).tolist()
        bits = ["".join(map(str, row[i + 1 :])) for i, row in enumerate(rows[:-1])]
        names = [NAMES[i] for i in np.asarray(arch.operation).tolist()]
        return ".".join(bits) + "|" + ",".join(names)

    def decode(self, text: str) -> NasBench101Cell:
        """Read a cell from what `encode` writes, or from the benchmark's own form.

        The latter is all V x V bits of the adjacency, then a bar, then all V names, for
        example `011001000|input,conv3x3-bn-relu,output`; brackets, quotes and spaces may stand
        between as in lists.

        Raises:
          UserError: another form, an unknown operation, or a cell that is not valid.
        """
        left, _, right = text.partition("|")
        bits = re.sub(r"[\s\[\],.]", "", left)
        words = [word for word in re.split(r"[\s\[\],\"']+", right) if word]
        if bits.strip("01") or len(bits) > OUTPUT * OUTPUT + 13 or text.count("|") != 1:
            raise self._malformed(text)
        numbers = np.array([int(bit) for bit in bits], np.int32)
        if len(bits) == EDGES and len(words) == INTERIOR and set(words) <= set(NAMES):
            adjacency = np.zeros((OUTPUT + 1, OUTPUT + 1), np.int32)
            adjacency[UPPER] = numbers
            operation = np.array([NAMES.index(word) for word in words], np.int32)
            return graph.checked(NasBench101Cell(adjacency, operation))
        if len(bits) == len(words) ** 2 and words[:1] + words[-1:] == ["input", "output"]:
            return graph.from_matrix(numbers.reshape(len(words), len(words)), words[1:-1])
        raise self._malformed(text)

    def _malformed(self, text: str) -> UserError:
        return UserError(
            f"{text!r} is no cell of {self.name}: write 21 bits of the adjacency, a bar and five "
            "operations as in 110000.10010.0001.010.01.1|conv3x3,conv1x1,maxpool3x3,-,-"
        )

    def canonical(self, arch: NasBench101Cell) -> NasBench101Cell:
        """Return `graph.canonical`: pruned, and numbered alike whatever the numbering was."""
        return graph.canonical(arch)

    def features(self, archs: NasBench101Cell) -> np.ndarray:
        """Return cells in canonical form as bits and one-hot operations: float64 `[M, 41]`."""
        bits = np.asarray(archs.adjacency)[:, UPPER[0], UPPER[1]]
        chosen = np.asarray(archs.operation)[..., None] == np.arange(len(OPERATIONS))
        return np.concatenate([bits, chosen.reshape(len(chosen), -1)], axis=1).astype(float)


def _generator(key: Key) -> np.random.Generator:
    """Return NumPy's generator with a key's own words as seed: draws whose number is unknown."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def _spread(rng: np.random.Generator, archs: NasBench101Cell) -> NasBench101Cell:
    """Give the interior vertices of cells `[M]` other numbers at random, in the same order."""
    absent = archs.operation == graph.ABSENT
    ranks = rng.random(absent.shape).argsort(1).argsort(1)
    free = ranks >= np.sum(~absent, axis=1, keepdims=True)
    target = np.argsort(free, axis=1, kind="stable")
    source = np.argsort(absent, axis=1, kind="stable")
    vertex = np.empty_like(source)
    np.put_along_axis(vertex, target, source, axis=1)
    every = np.pad(vertex + 1, ((0, 0), (1, 1)), constant_values=((0, 0), (0, OUTPUT)))
    batch = np.arange(len(every))[:, None, None]
    adjacency = archs.adjacency[batch, every[:, :, None], every[:, None, :]]
    return NasBench101Cell(adjacency, np.take_along_axis(archs.operation, vertex, axis=1))


def _changed(rng: np.random.Generator, archs: NasBench101Cell, rate: float) -> NasBench101Cell:
    """Change one locus of every cell `[M]` and each other with probability `rate`.

    Loci are the 21 places of edges and the five interior vertices.
    """
    count = len(archs.operation)
    changed = rng.random((count, EDGES + INTERIOR)) < rate
    changed[np.arange(count), rng.integers(0, EDGES + INTERIOR, count)] = True
    adjacency = archs.adjacency.copy()
    adjacency[:, UPPER[0], UPPER[1]] ^= changed[:, :EDGES]
    kinds = len(OPERATIONS) - 1
    absent = archs.operation == graph.ABSENT
    step = rng.integers(1, kinds, absent.shape)
    drawn = rng.integers(0, kinds, absent.shape)
    other = 1 + np.where(absent, drawn, (archs.operation - 1 + step) % kinds)
    vertices = changed[:, EDGES:]
    operation = np.where(vertices | absent, other, archs.operation).astype(np.int32)
    for cell, place in np.argwhere(vertices & absent):
        vertex = place + 1
        adjacency[cell, rng.integers(0, vertex), vertex] = 1
        adjacency[cell, vertex, rng.integers(vertex + 1, OUTPUT + 1)] = 1
    return NasBench101Cell(adjacency, operation)


def _equal(archs: NasBench101Cell, others: NasBench101Cell) -> np.ndarray:
    """Return which cells `[M]` are the same arrays."""
    same: Any = np.all(archs.adjacency == others.adjacency, axis=(1, 2))
    return same & np.all(archs.operation == others.operation, axis=1)
