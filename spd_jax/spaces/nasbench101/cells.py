"""The space of NAS-Bench-101 (Ying et al., 2019): 423,624 cells of up to seven vertices.

`graph` says what a cell is. Every cell that the space makes is valid and pruned: there is a
path from input to output, everything lies on one, and there are at most nine edges.
"""

import dataclasses
import re
from typing import TYPE_CHECKING

import jax
import numpy as np

from spd_jax.axes import Key
from spd_jax.errors import UserError
from spd_jax.spaces.nasbench101 import counts, graph
from spd_jax.spaces.nasbench101.graph import (
    ABSENT,
    INTERIOR,
    OPERATIONS,
    UPPER,
    VERTICES,
    NasBench101Cell,
)
from spd_jax.spaces.nasbench101.wirings import wiring_code, wirings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = ("-", "conv3x3", "conv1x1", "maxpool3x3")  # of `OPERATIONS`, in a cell's text
EDGES = len(UPPER[0])
KINDS = len(OPERATIONS) - 1


@dataclasses.dataclass(frozen=True)
class NasBench101Space:
    """All cells of NAS-Bench-101, a `motif.SearchSpace` with every optional ability.

    Attributes:
      mutation_rate: probability that `mutate` changes an operation besides what it changes
        anyway; 0.05 is ours.
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

        Nine of ten have seven vertices, nearly as in the benchmark (85 of 100); its own random
        search prunes random matrices and prefers small cells.
        """
        rng = _generator(key)
        known = wirings()
        return known.take(rng.choice(len(known.code), count, p=known.chance), _drawn(rng, count))

    def mutate(self, key: Key, archs: NasBench101Cell) -> NasBench101Cell:
        """Change the wiring or an operation of every arch; consumes `key`.

        First the interior vertices are spread at random over the numbers 1..5, in their order.
        Then, with equal chances, one operation becomes another, or one edge or two appear or
        disappear so that a valid cell with all its vertices on paths results, all such
        wirings equally likely; a vertex that appears has a random operation. At last every
        operation becomes another with probability `mutation_rate`.
        """
        rng = _generator(key)
        parents = _spread(rng, graph.prune(archs))
        codes = wiring_code(parents.adjacency)
        operation = np.where(
            parents.operation == ABSENT, _drawn(rng, len(codes)), parents.operation
        )
        rewired = rng.random(len(codes)) < 0.5
        changed = rng.random(operation.shape) < self.mutation_rate
        chosen = np.empty(len(codes), int)
        for i, code in enumerate(codes):
            distance = np.bitwise_count(wirings().code ^ code)
            present = np.flatnonzero(parents.operation[i])
            if rewired[i] or not len(present):
                chosen[i] = rng.choice(np.flatnonzero((distance == 1) | (distance == 2)))
            else:
                chosen[i] = np.argmin(distance)
                changed[i, rng.choice(present)] = True
        step = rng.integers(1, KINDS, operation.shape)
        other = 1 + (operation - 1 + step) % KINDS
        return wirings().take(chosen, np.where(changed, other, operation))

    def crossover(
        self, key: Key, first: NasBench101Cell, second: NasBench101Cell
    ) -> NasBench101Cell:
        """Mix two batches: a child keeps what its parents agree on; consumes `key`.

        Its wiring is drawn among all valid ones that have every edge that both parents have and
        none that neither has, so it may be a parent's; every operation is that of
        a parent that has the vertex, with equal chances if both do.
        """
        rng = _generator(key)
        first, second = graph.prune(first), graph.prune(second)
        one, two = wiring_code(first.adjacency), wiring_code(second.adjacency)
        chosen = np.array(
            [
                rng.choice(np.flatnonzero(((wirings().code ^ a) & ~(a ^ b)) == 0))
                for a, b in zip(one, two, strict=True)
            ]
        )
        from_first = rng.random(first.operation.shape) < 0.5
        from_first = np.where(
            second.operation == ABSENT, True, from_first & (first.operation != ABSENT)
        )
        return wirings().take(chosen, np.where(from_first, first.operation, second.operation))

    def encode(self, arch: NasBench101Cell) -> str:
        """Return `110000.10001.0001.000.00.0|conv3x3,maxpool3x3,-,-,-`.

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
        if bits.strip("01") or len(bits) > VERTICES**2 or text.count("|") != 1:
            raise self._malformed(text)
        numbers = np.array([int(bit) for bit in bits], np.int32)
        if len(bits) == EDGES and len(words) == INTERIOR and set(words) <= set(NAMES):
            adjacency = np.zeros((VERTICES, VERTICES), np.int32)
            adjacency[UPPER] = numbers
            operation = np.array([NAMES.index(word) for word in words], np.int32)
            return graph.checked(NasBench101Cell(adjacency, operation))
        if len(bits) == len(words) ** 2 and words[:1] + words[-1:] == ["input", "output"]:
            return graph.from_matrix(numbers.reshape(len(words), len(words)), words[1:-1])
        raise self._malformed(text)

    def _malformed(self, text: str) -> UserError:
        return UserError(
            f"{text!r} is no cell of {self.name}: write 21 bits of the adjacency, a bar and five "
            "operations as in 110000.10001.0001.000.00.0|conv3x3,maxpool3x3,-,-,-"
        )

    def canonical(self, arch: NasBench101Cell) -> NasBench101Cell:
        """Return `graph.canonical`: pruned, and numbered alike whatever the numbering was."""
        return graph.canonical(arch)

    def features(self, archs: NasBench101Cell) -> np.ndarray:
        """Return cells in canonical form as bits and one-hot operations: float64 `[M, 41]`."""
        bits = np.asarray(archs.adjacency)[:, UPPER[0], UPPER[1]]
        chosen = np.asarray(archs.operation)[..., None] == np.arange(len(OPERATIONS))
        return np.concatenate([bits, chosen.reshape(len(chosen), -1)], axis=1).astype(float)

    def structure(self, archs: NasBench101Cell) -> np.ndarray:
        """Return `counts.structure`: float64 `[M, 35]`, the same for every spelling."""
        return counts.structure(archs)

    def paths(self, archs: NasBench101Cell) -> np.ndarray:
        """Return `counts.path_encoding`: float64 0 or 1 `[M, 364]`."""
        return counts.path_encoding(archs)

    def to_tokens(self, archs: NasBench101Cell) -> np.ndarray:
        """Return cells in canonical form as tokens of NAO's network: int32 `[M, 26]`.

        21 places hold the adjacency above the diagonal, row by row (1 no edge, 2 an edge), five
        the operations of vertices 1..5 (3, 4, 5); that of an absent vertex is written 3.
        """
        bits = np.asarray(archs.adjacency)[:, UPPER[0], UPPER[1]]
        operation = np.maximum(np.asarray(archs.operation), 1)
        return np.concatenate([bits + 1, operation + 2], axis=1).astype(np.int32)

    def from_tokens(self, tokens: np.ndarray) -> NasBench101Cell:
        """Read cells from legal tokens `[M, 26]`; any choice is a cell.

        What lies on no path from input to output is pruned. A wiring without a path or
        with more than nine edges becomes the valid one that differs in the fewest places,
        the smallest number in binary among several.
        """
        tokens = np.asarray(tokens, np.int32)
        adjacency = np.zeros((len(tokens), VERTICES, VERTICES), np.int32)
        adjacency[:, UPPER[0], UPPER[1]] = tokens[:, :EDGES] - 1
        cells = NasBench101Cell(adjacency, tokens[:, EDGES:] - 2)
        valid = graph.is_valid(cells)
        codes = wiring_code(np.where(valid[:, None, None], graph.prune(cells).adjacency, adjacency))
        nearest = [np.argmin(np.bitwise_count(wirings().code ^ code)) for code in codes]
        return wirings().take(np.array(nearest), cells.operation)

    def legal_tokens(self) -> np.ndarray:
        """Return 1 and 2 at the places of edges, 3 to 5 at those of operations: bool `[26, 6]`."""
        token = np.arange(KINDS + 3)
        edges, operations = (token == 1) | (token == 2), token > 2
        return np.stack([edges] * EDGES + [operations] * INTERIOR)

    def draw(self, arch: NasBench101Cell, title: str = "") -> "Figure":
        """Return a picture of one cell, pruned."""
        from spd_jax.spaces.nasbench101 import drawing  # brings matplotlib

        return drawing.draw(arch, title)


def _generator(key: Key) -> np.random.Generator:
    """Return NumPy's generator with a key's own words as seed: draws whose number is unknown."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def _drawn(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return random operations for all interior vertices of `count` cells: `[count, 5]`."""
    return rng.integers(1, len(OPERATIONS), (count, INTERIOR))


def _spread(rng: np.random.Generator, archs: NasBench101Cell) -> NasBench101Cell:
    """Give the interior vertices of cells `[M]` other numbers at random, in the same order."""
    absent = archs.operation == graph.ABSENT
    ranks = rng.random(absent.shape).argsort(1).argsort(1)
    free = ranks >= np.sum(~absent, axis=1, keepdims=True)
    target = np.argsort(free, axis=1, kind="stable")
    source = np.argsort(absent, axis=1, kind="stable")
    vertex = np.empty_like(source)
    np.put_along_axis(vertex, target, source, axis=1)
    every = np.pad(vertex + 1, ((0, 0), (1, 1)), constant_values=((0, 0), (0, VERTICES - 1)))
    batch = np.arange(len(every))[:, None, None]
    adjacency = archs.adjacency[batch, every[:, :, None], every[:, None, :]]
    return NasBench101Cell(adjacency, np.take_along_axis(archs.operation, vertex, axis=1))
