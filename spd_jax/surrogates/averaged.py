"""A dish and a regressor, averaged: what the dish knows before the first ground truth, and after.

A dish ranks well from five ground truths on and gains little from more; a regressor on
features begins with nothing and goes on learning. Both predict in the unit of the scores,
so their mean needs no weights: from few scores a Gaussian process predicts nearly a
constant, and so leaves the order to the dish. Ours; combining forecasts by equal weights
is Bates and Granger's (1969).
"""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from jax.typing import ArrayLike

from spd_jax import archs as archs_lib
from spd_jax.axes import Archs
from spd_jax.surrogates import protocol
from spd_jax.surrogates.dish_surrogate import DishSurrogate, FittedDish


@dataclasses.dataclass(frozen=True)
class Averaged:
    """The mean of a dish's and a regressor's predictions.

    Attributes:
      dish: predicts in standard deviations over the known motifs, which is undone.
      regressor: any surrogate that predicts in the unit of the scores.
    """

    dish: DishSurrogate
    regressor: protocol.Surrogate

    def fit(
        self,
        key: jax.Array,
        archs: Archs,
        scores: ArrayLike,
        *,
        fit_dish: Callable[[jax.Array, Archs, np.ndarray], FittedDish] | None = None,
    ) -> "FittedAveraged":
        """Fit both on the same scores.

        Args:
          key: consumed: half of it draws the dish, half the regressor.
          archs: pytree of arrays, motif axis `[M]` first.
          scores: ground truth `[M]`, higher is better; not finite = failed, left out.
          fit_dish: called instead of `dish.fit`, whose result it must return, so that the
            long half can be saved and found again.

        Returns:
          The two, fitted; they predict in the unit of the scores.

        Raises:
          UserError: fewer than 2 finite scores, or shapes that disagree.
        """
        archs, truth = archs_lib.known(archs, scores)
        dish_key, regressor_key = jax.random.split(key)
        return FittedAveraged(
            (fit_dish or self.dish.fit)(dish_key, archs, truth),
            self.regressor.fit(regressor_key, archs, truth),
            float(truth.mean()),
            float(truth.std()),
        )

    def load(self, path: protocol.Path) -> "FittedAveraged":
        """Read what `FittedAveraged.save` wrote.

        Raises:
          UserError: no such file, or not that of such a pair.
        """
        arrays = protocol.load_arrays(path, type(self).__name__)
        return FittedAveraged(
            protocol.from_bytes(arrays["dish"], self.dish.load, f"the dish in {path}"),
            protocol.from_bytes(
                arrays["regressor"], self.regressor.load, f"the regressor in {path}"
            ),
            float(arrays["mean"]),
            float(arrays["std"]),
        )


@dataclasses.dataclass(frozen=True)
class FittedAveraged:
    """A fitted pair.

    Attributes:
      dish: fitted.
      regressor: fitted.
      mean: of the scores that both were fitted on.
      std: their standard deviation.
    """

    dish: FittedDish
    regressor: protocol.Fitted
    mean: float
    std: float

    def predict(self, archs: Archs) -> np.ndarray:
        """Return scores `[M]` float64; minus infinity for a motif that diverges in the dish."""
        dish = np.asarray(self.dish.predict(archs), float)
        known = np.isfinite(dish)
        mean = (self.mean + self.std * np.where(known, dish, 0) + self.regressor.predict(archs)) / 2
        return np.where(known, mean, -np.inf)

    def save(self, path: protocol.Path) -> None:
        """Write both and the two numbers as one `.npz`."""
        parts = {
            "dish": protocol.to_bytes(self.dish.save),
            "regressor": protocol.to_bytes(self.regressor.save),
        }
        numbers = {"mean": np.asarray(self.mean), "std": np.asarray(self.std)}
        protocol.save_arrays(path, "Averaged", parts | numbers)
