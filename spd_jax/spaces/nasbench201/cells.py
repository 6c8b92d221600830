"""The space of NAS-Bench-201 (Dong and Yang, 2020): all 15,625 cells; `graph` says what one is."""

import dataclasses
import re
from typing import TYPE_CHECKING

import jax
import numpy as np

from spd_jax.axes import Key
from spd_jax.errors import UserError
from spd_jax.spaces.nasbench201.graph import (
    EDGES,
    OPERATIONS,
    PATHS,
    cells_of,
    function_of,
    live_edges,
    live_paths,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CELL = re.compile(r"\|(\w+)~0\|\+\|(\w+)~0\|(\w+)~1\|\+\|(\w+)~0\|(\w+)~1\|(\w+)~2\|")


@dataclasses.dataclass(frozen=True)
class NasBench201Space:
    """All cells of NAS-Bench-201, a `motif.SearchSpace` with every optional ability.

    Attributes:
      mutation_rate: probability that `mutate` changes an edge besides the one that it changes
        anyway; 0.1 is ours.
      name: name in ledgers and tables.
    """

    mutation_rate: float = 0.1
    name: str = dataclasses.field(default="nasbench201", init=False)

    def __post_init__(self) -> None:
        """Refuse a rate that is no probability."""
        if not 0 <= self.mutation_rate <= 1:
            raise UserError(f"mutation_rate={self.mutation_rate} must lie between 0 and 1")

    def sample(self, key: Key, count: int) -> np.ndarray:
        """Draw cells int32 `[count, 6]`, every edge uniform; consumes `key`."""
        return np.asarray(jax.random.randint(key, (count, len(EDGES)), 0, len(OPERATIONS)))

    def mutate(self, key: Key, archs: np.ndarray) -> np.ndarray:
        """Change one edge and each other one with probability `mutation_rate`; consumes `key`.

        A mutant that computes what its parent does is drawn again.
        """
        parents = np.asarray(archs, np.int32)
        mutants, same = parents, np.ones(len(parents), bool)
        while same.any():
            key, where_key, one_key, step_key = jax.random.split(key, 4)
            changed = np.array(
                jax.random.bernoulli(where_key, float(self.mutation_rate), parents.shape)
            )
            one = np.asarray(jax.random.randint(one_key, (len(parents),), 0, len(EDGES)))
            changed[np.arange(len(parents)), one] = True
            step = np.asarray(jax.random.randint(step_key, parents.shape, 1, len(OPERATIONS)))
            drawn = np.where(changed, (parents + step) % len(OPERATIONS), parents)
            mutants = np.where(same[:, None], drawn, mutants)
            same = function_of(mutants) == function_of(parents)
        return mutants

    def crossover(self, key: Key, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Take every edge from either parent, with equal chances; consumes `key`."""
        from_first = np.asarray(jax.random.bernoulli(key, 0.5, np.shape(first)))
        return np.where(from_first, np.asarray(first, np.int32), np.asarray(second, np.int32))

    def encode(self, arch: np.ndarray) -> str:
        """Return the benchmark's own text, `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`."""
        nodes: dict[int, str] = {1: "|", 2: "|", 3: "|"}
        for (start, end), operation in zip(EDGES, np.asarray(arch).tolist(), strict=True):
            nodes[end] += f"{OPERATIONS[operation]}~{start}|"
        return "+".join(nodes.values())

    def decode(self, text: str) -> np.ndarray:
        """Read a cell from the benchmark's own text.

        Raises:
          UserError: another form, or an operation that there is not.
        """
        found = _CELL.fullmatch(text.strip())
        if found is None:
            raise UserError(
                f"{text!r} is no cell of {self.name}: write |op~0|+|op~0|op~1|+|op~0|op~1|op~2|"
            )
        for operation in found.groups():
            if operation not in OPERATIONS:
                raise UserError(
                    f"{text!r} is no cell of {self.name}: {operation} must be one of "
                    f"{', '.join(OPERATIONS)}"
                )
        return np.array([OPERATIONS.index(operation) for operation in found.groups()], np.int32)

    def canonical(self, arch: np.ndarray) -> np.ndarray:
        """Return the first of all cells that compute the same function.

        Cells are ordered by their digits in base 5, the first edge's counting most (ours).
        """
        return cells_of(function_of(np.asarray(arch)))

    def to_tokens(self, archs: np.ndarray) -> np.ndarray:
        """Return cells `[M, 6]` as tokens of NAO's network, operation + 1: int32 `[M, 6]`."""
        return np.asarray(archs, np.int32) + 1

    def from_tokens(self, tokens: np.ndarray) -> np.ndarray:
        """Undo `to_tokens`; tokens must be legal."""
        return np.asarray(tokens, np.int32) - 1

    def legal_tokens(self) -> np.ndarray:
        """Return that all tokens but 0 may stand anywhere: bool `[6, 6]`."""
        return np.tile(np.arange(len(OPERATIONS) + 1) > 0, (len(EDGES), 1))

    def features(self, archs: np.ndarray) -> np.ndarray:
        """Return cells in canonical form with every edge one-hot: float64 `[M, 30]`."""
        chosen = np.asarray(archs)[..., None] == np.arange(len(OPERATIONS))
        return chosen.reshape(len(chosen), -1).astype(float)

    def structure(self, archs: np.ndarray) -> np.ndarray:
        """Return counts that are the same for all cells of one function: float64 `[M, 18]`.

        They are taken from the canonical form, and all are 0 where no path from input to output
        is without `none`. In order: used edges with each of the four operations, used edges into
        node 3, paths; then the least and the largest number that a path has of each of the
        four operations, of convolutions, and of edges.
        """
        cells = cells_of(function_of(np.asarray(archs)))
        live = live_paths(cells)
        used = live_edges(cells)
        kinds = np.arange(1, len(OPERATIONS))
        edges = [np.sum(used & (cells == kind), axis=1) for kind in kinds]
        sizes = np.array([len(path) for path in PATHS])
        on_path = [np.stack([np.sum(cells[:, path] == k, axis=1) for path in PATHS]) for k in kinds]
        on_path += [on_path[1] + on_path[2], np.tile(sizes[:, None], len(cells))]
        ends = []
        for counts in on_path:
            least = counts.T.min(1, where=live, initial=len(PATHS[-1]))
            ends += [np.where(live.any(1), least, 0), counts.T.max(1, where=live, initial=0)]
        return np.stack([*edges, used[:, 3:].sum(1), live.sum(1), *ends], axis=1).astype(float)

    def paths(self, archs: np.ndarray) -> np.ndarray:
        """Return which sequences of operations lead from input to output: float64 `[M, 84]`.

        There are 4 of one operation, 16 of two and 64 of three; `none` ends a path, and
        `skip_connect` is an operation (White et al., 2021). Archs are in canonical form.
        """
        cells = np.asarray(archs)
        live, kinds = live_paths(cells), len(OPERATIONS) - 1
        vectors = np.zeros((len(cells), sum(kinds**n for n in (1, 2, 3))))
        for place, path in enumerate(PATHS):
            first = sum(kinds**n for n in range(1, len(path)))
            number = (cells[:, path] - 1) @ (kinds ** np.arange(len(path)))
            rows = np.flatnonzero(live[:, place])
            vectors[rows, first + number[rows]] = 1
        return vectors

    def draw(self, arch: np.ndarray, title: str = "") -> "Figure":
        """Return a picture of one cell; unused edges are pale."""
        from spd_jax.spaces.nasbench201 import drawing  # brings matplotlib

        return drawing.draw(arch, title)
