"""The simplest rival of all: what a motif costs, known without training anything."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jax.typing import ArrayLike

from spd_jax import archs as archs_lib
from spd_jax import files
from spd_jax.axes import Archs, Key
from spd_jax.errors import UserError
from spd_jax.surrogates import protocol


@dataclasses.dataclass(frozen=True)
class Cost:
    """Predicts that the dearer motif is the better one, a `protocol.ScoreFree` surrogate.

    Attributes:
      name: what is counted, such as "parameters"; a saved file is refused by another.
      of: `of(archs [M]) -> [M]`, see `problems.Problem.costs`.
    """

    name: str
    of: Callable[[Archs], np.ndarray]

    def fit(self, key: Key, archs: Archs, scores: ArrayLike) -> "FittedCost":
        """Return `prepare(key)`: archs and scores are not looked at."""
        del archs, scores
        return self.prepare(key)

    def prepare(self, key: Key) -> "FittedCost":
        """Return the predictor; `key` is not used."""
        del key
        return FittedCost(self)

    def load(self, path: protocol.Path) -> "FittedCost":
        """Read a saved predictor; errors as `protocol.Surrogate.load`."""

        def build(arrays: dict[str, np.ndarray]) -> FittedCost:
            if str(arrays["name"]) != self.name:
                raise UserError(f"it counts {arrays['name']}: load it as such")
            return FittedCost(self)

        return protocol.restore(path, type(self).__name__, build)


@dataclasses.dataclass(frozen=True)
class FittedCost:
    """A cost, ready to predict.

    Attributes:
      cost: its settings.
    """

    cost: Cost

    def predict(self, archs: Archs) -> np.ndarray:
        """Return the cost of each motif, `[M]` float64.

        Raises:
          UserError: another number of costs came back.
        """
        costs = np.asarray(self.cost.of(archs), np.float64)
        if costs.shape != (archs_lib.count(archs),):
            raise UserError(f"costs of shape {costs.shape}: return one number for each motif")
        return costs

    def save(self, path: protocol.Path) -> None:
        """Write the name."""
        files.save_arrays(path, {"name": np.asarray(self.cost.name)}, kind="Cost")
