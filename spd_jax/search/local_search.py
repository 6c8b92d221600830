"""Local search: the neighbours of the best known cell, then those of the next best.

White et al. (2021, "Exploring the loss landscape in neural architecture search") and Den
Ottelander et al. (2021): hill climbing is hard to beat on small search spaces.
"""

import dataclasses

import jax
import numpy as np

from spd_jax.archs import Cells
from spd_jax.axes import Key
from spd_jax.checks import is_count
from spd_jax.errors import UserError
from spd_jax.motif import SearchSpace
from spd_jax.search import protocol


@dataclasses.dataclass(frozen=True)
class LocalSearch:
    """Settings of local search.

    The sources evaluate one neighbour after the other, move on to the first better cell or the
    best neighbour, and restart from a random cell in a local optimum. A batch of proposals is
    bought at once here, and all that is known counts: it holds new neighbours of the best known
    cell; where these run out, in a local optimum, new neighbours of the next best one.

    Attributes:
      rounds: batches of mutants in a row without a new cell, after which a cell has no more new
        neighbours. A neighbour is what `space.mutate` makes of a cell.
    """

    rounds: int = 3

    def __post_init__(self) -> None:
        """Refuse a number of rounds that is none."""
        if not is_count(self.rounds, 1):
            raise UserError(f"rounds={self.rounds!r} must be at least 1, a whole number")

    def propose(
        self, key: Key, space: SearchSpace, known: Cells, scores: np.ndarray, count: int
    ) -> protocol.Proposal:
        """Return neighbours of the best cells, see `protocol.Proposer`.

        Random cells fill up where no known cell that did not fail has new neighbours left.
        """
        seen, found, missing = set(known.names), known.take([]), count
        alive = protocol.ranking(scores)[: int(np.isfinite(scores).sum())]
        for place in alive:
            own_key, cell = jax.random.fold_in(key, place), known.take([place])
            new = self._neighbours(own_key, space, cell, seen, missing)
            found = found.joined(new)
            seen.update(new.names)
            missing = count - len(found)
            if not missing:
                return protocol.Proposal(found, {"random_fill": 0.0})
        rest_key = jax.random.fold_in(key, len(known))
        rest = protocol.collect(rest_key, space, seen, count=missing).cells
        return protocol.Proposal(found.joined(rest), {"random_fill": missing / count})

    def _neighbours(
        self, key: Key, space: SearchSpace, cell: Cells, seen: set[str], count: int
    ) -> Cells:
        """Return at most `count` new neighbours of one cell, in the order of their drawing."""
        parents = cell.take(np.zeros(protocol.ROUND, int)).archs
        found, barren, turn = cell.take([]), 0, 0
        while barren < self.rounds and len(found) < count:
            mutants = space.mutate(jax.random.fold_in(key, turn), parents)
            new = protocol.fresh(protocol.born(space, mutants), seen.union(found.names))
            turn, barren = turn + 1, 0 if new else barren + 1
            found = found.joined(new)
        return found.take(range(min(count, len(found))))
