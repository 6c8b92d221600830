"""An elitist genetic algorithm (Rawal et al., appendix A.3.3).

The best known cells, by ground truth, are recombined and mutated. Elitist: a parent
stays a parent until 20 better ones are known.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from spd_jax import archs as batches
from spd_jax.archs import Cells
from spd_jax.axes import Archs, Key
from spd_jax.checks import is_count, is_number
from spd_jax.errors import UserError
from spd_jax.motif import SearchSpace
from spd_jax.search import protocol


@dataclasses.dataclass(frozen=True)
class Genetic:
    """Settings of the genetic algorithm; how much a mutation changes belongs to the space.

    Attributes:
      parents: size of the elite, 20 in the paper.
      crossover_rate: probability that a child has two parents and not one; the paper's is
        lost, 0.5 is ours.
    """

    parents: int = 20
    crossover_rate: float = 0.5

    def __post_init__(self) -> None:
        """Refuse an empty elite, and a rate that is no probability."""
        if not is_count(self.parents, 1):
            raise UserError(f"parents={self.parents!r} must be at least 1, a whole number")
        if not is_number(self.crossover_rate, 0, 1):
            raise UserError(f"crossover_rate={self.crossover_rate!r} must lie between 0 and 1")

    def propose(
        self, key: Key, space: SearchSpace, known: Cells, scores: np.ndarray, count: int
    ) -> protocol.Proposal:
        """Return children of the best cells; see `protocol.Proposer`.

        Children that are known, or that were born before, are dropped. Where 50 rounds of
        children bring nothing fresh, and where every known cell failed, random cells fill up.
        """
        alive = int(np.isfinite(scores).sum())
        elite = known.take(protocol.ranking(scores)[: min(alive, self.parents)]).archs
        draw = functools.partial(self.children, space=space, elite=elite) if alive else None
        return protocol.collect(key, space, known.names, count=count, draw=draw)

    def children(self, key: Key, count: int, *, space: SearchSpace, elite: Archs) -> Archs:
        """Return `count` children of a batch of parents `[P]`, known ones too; consumes `key`."""
        first_key, step_key, whether_key, crossover_key, mutation_key = jax.random.split(key, 5)
        size = batches.count(elite)
        first = np.asarray(jax.random.randint(first_key, (count,), 0, size))
        # A step of 1 .. size - 1 round the circle: the second parent is another cell.
        step = np.asarray(jax.random.randint(step_key, (count,), 1, max(size, 2)))
        mothers = batches.take(elite, first)
        fathers = batches.take(elite, (first + step) % size)
        crossed = space.crossover(crossover_key, mothers, fathers)
        two = np.asarray(jax.random.bernoulli(whether_key, float(self.crossover_rate), (count,)))
        return space.mutate(mutation_key, jax.tree.map(_choose(two), crossed, mothers))


def _choose(mask: np.ndarray) -> Callable[[Any, Any], np.ndarray]:
    """Return a function of two leaves `[M, ...]` that takes the first where `mask` `[M]` holds."""

    def choose(first: Any, second: Any) -> np.ndarray:
        first, second = np.asarray(first), np.asarray(second)
        return np.where(mask.reshape(-1, *[1] * (first.ndim - 1)), first, second)

    return choose
