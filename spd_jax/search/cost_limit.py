"""A search under a limit: a space of which only the cells that are cheap enough may be proposed.

Every source of cells (the warm start, all proposers, random cells that fill up) asks a
`motif.Restricted` space what it allows, so that a limit is a wrapped space and nothing else.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from spd_jax.archs import Cells
from spd_jax.errors import UserError
from spd_jax.motif import PartOfSpace

CostOf = Callable[[Cells], np.ndarray]  # cells [M] -> costs [M] float64, lower is better


def costs_of(cost: CostOf, cells: Cells) -> np.ndarray:
    """Return what cells `[M]` cost, float64 `[M]`; NaN where it is not known.

    Raises:
      UserError: another number of costs came back, or something else than numbers.
    """
    try:
        costs = np.asarray(cost(cells), np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"a cost is no number ({error}): return one for each cell") from error
    if costs.shape != (len(cells),):
        raise UserError(
            f"costs have shape {costs.shape} for {len(cells)} cells: return one number for each"
        )
    return costs


@dataclasses.dataclass(frozen=True)
class WithinCost(PartOfSpace):
    """A search space without the cells above a limit: a `SearchSpace` that is `motif.Restricted`.

    `sample`, `mutate` and `crossover` are the whole space's; what they bring above the limit is
    dropped when cells are born (`protocol.born`), before anybody ranks or evaluates it. The best
    of a space is found slower where few of its cells are allowed: each of them is drawn by chance.

    Attributes:
      space: the whole space.
      cost: `cost(cells [M]) -> [M]`, for example
        `lambda cells: problem.costs["parameters"](cells.archs)`; known without training.
      limit: the largest cost that is allowed; a cost of NaN is not.
    """

    cost: CostOf
    limit: float

    def allows(self, name: str) -> bool:
        """Return whether a cell is cheap enough."""
        if name not in self._known:
            (cost,) = costs_of(self.cost, Cells.read(self.space, [name]))
            self._known[name] = bool(cost <= self.limit)
        return self._known[name]

    @functools.cached_property
    def _known(self) -> dict[str, bool]:
        """What `allows` has answered: proposers meet the same cells again and again."""
        return {}
