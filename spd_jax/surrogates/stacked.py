"""Stacking: the dish's prediction as one more feature of a regressor (Wolpert, 1992).

What keeps the truth from leaking: the column that the regressor is fitted on is predicted
out of fold. The known motifs are cut into K folds, and each fold is predicted by a dish
that was fitted on the other folds alone; so the regressor sees how far a dish can be
trusted on motifs that it does not know. New motifs are predicted by a dish that was
fitted on everything known. A dish that learns from no known truth (`FrozenDish`) needs no folds.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from spd_jax import archs as archs_lib
from spd_jax.axes import Archs
from spd_jax.dish import DishState
from spd_jax.errors import UserError
from spd_jax.surrogates import protocol
from spd_jax.surrogates.dish_surrogate import DishSurrogate, FittedDish

DIVERGED = 1.0  # standard deviations below the worst prediction: regressors need finite numbers


@dataclasses.dataclass(frozen=True)
class FrozenDish:
    """A dish that `fit` leaves as it is: untrained, or fitted before on other motifs.

    Attributes:
      surrogate: family and settings.
      state: what to predict with; `None` draws an untrained dish from the key.
    """

    surrogate: DishSurrogate
    state: DishState | None = None

    def fit(self, key: jax.Array, archs: Archs, scores: ArrayLike) -> FittedDish:
        """Return the dish; archs and scores are not looked at, and `key` is consumed."""
        del archs, scores
        state = self.surrogate.start(key) if self.state is None else self.state
        return FittedDish(self.surrogate, state, None)

    def load(self, path: protocol.Path) -> FittedDish:
        """Read what the fitted dish's `save` wrote."""
        return self.surrogate.load(path)


@dataclasses.dataclass(frozen=True)
class Stacked:
    """A regressor that sees its features and a base surrogate's prediction.

    Attributes:
      base: the dish, commonly; any surrogate that can save.
      regressor: a surrogate with a field `features`, such as `RandomForest(space.features)`;
        the prediction becomes its last column.
      folds: K; the base is fitted K + 1 times. 0: once, and its predictions of the motifs it
        was given are used as they are, which is right only for a base that ignores their
        scores (`FrozenDish`, a proxy); with any other they would leak.
    """

    base: protocol.Surrogate
    regressor: Any
    folds: int = 5

    def fit(self, key: jax.Array, archs: Archs, scores: ArrayLike) -> "FittedStacked":
        """Fit the base once per fold and once on everything, then the regressor.

        Args:
          key: consumed: draws the folds and every fit.
          archs: pytree of arrays, motif axis `[M]` first.
          scores: ground truth `[M]`, higher is better; not finite = failed, left out.

        Returns:
          The fitted stack; it predicts in the unit of the scores.

        Raises:
          UserError: too few finite scores, a number of folds that is not allowed, or a
            learning base without folds.
        """
        if self.folds < 0 or self.folds == 1:
            raise UserError(f"folds is {self.folds}: give 2 or more, or 0 for a frozen base")
        if self.folds == 0 and isinstance(self.base, DishSurrogate):
            raise UserError("a dish that learns needs folds: give 2 or more, or a FrozenDish")
        # Every base but a frozen one is left two motifs or more to learn from.
        archs, truth = archs_lib.known(archs, scores, minimum={0: 2, 2: 4}.get(self.folds, 3))
        fold_key, base_key, regressor_key = jax.random.split(key, 3)
        base = self.base.fit(base_key, archs, truth)
        if self.folds:
            column = self._out_of_fold(fold_key, archs, truth)
        else:
            column = np.asarray(base.predict(archs), float)
        if not np.isfinite(column).any():
            raise UserError(
                "the base predicts no finite score: lower the dish's inner_learning_rate"
            )
        floor = float(column[np.isfinite(column)].min()) - DIVERGED
        regressor = self._beside().fit(regressor_key, (archs, _finite(column, floor)), truth)
        return FittedStacked(base, regressor, floor)

    def load(self, path: protocol.Path) -> "FittedStacked":
        """Read a saved stack.

        Raises:
          UserError: no such file, or not that of a stack of this base and regressor.
        """
        arrays = protocol.load_arrays(path, type(self).__name__)
        base = protocol.from_bytes(arrays["base"], self.base.load, f"the base in {path}")
        regressor = protocol.from_bytes(
            arrays["regressor"], self._beside().load, f"the regressor in {path}"
        )
        return FittedStacked(base, regressor, float(arrays["floor"]))

    def _beside(self) -> Any:
        """Return the regressor on pairs (archs, predictions `[M]`)."""
        own = self.regressor.features

        def features(pair: tuple[Archs, np.ndarray]) -> np.ndarray:
            return np.column_stack([own(pair[0]), pair[1]])

        return dataclasses.replace(self.regressor, features=features)

    def _out_of_fold(self, key: jax.Array, archs: Archs, truth: np.ndarray) -> np.ndarray:
        """Return for each motif `[K]` the prediction of a base that never saw its truth."""
        order_key, fit_key = jax.random.split(key)
        order = np.asarray(jax.random.permutation(order_key, len(truth)))
        column = np.full(len(truth), np.nan)
        for number, fold in enumerate(np.array_split(order, min(self.folds, len(truth)))):
            others = np.setdiff1d(order, fold)
            fitted = self.base.fit(
                jax.random.fold_in(fit_key, number), _take(archs, others), truth[others]
            )
            column[fold] = fitted.predict(_take(archs, fold))
        return column


@dataclasses.dataclass(frozen=True)
class FittedStacked:
    """A fitted stack.

    Attributes:
      base: the base, fitted on everything known.
      regressor: the regressor, fitted on out-of-fold predictions.
      floor: what a motif whose prediction is not finite gets, in the base's unit.
    """

    base: protocol.Fitted
    regressor: protocol.Fitted
    floor: float

    def predict(self, archs: Archs) -> np.ndarray:
        """Return scores `[M]` float64, in the unit of the fitted scores."""
        column = _finite(np.asarray(self.base.predict(archs), float), self.floor)
        return self.regressor.predict((archs, column))

    def save(self, path: protocol.Path) -> None:
        """Write base and regressor as one `.npz`."""
        parts = {
            "base": protocol.to_bytes(self.base.save),
            "regressor": protocol.to_bytes(self.regressor.save),
        }
        protocol.save_arrays(path, "Stacked", parts | {"floor": np.asarray(self.floor)})


def _finite(column: np.ndarray, floor: float) -> np.ndarray:
    return np.where(np.isfinite(column), column, floor)


def _take(archs: Archs, chosen: np.ndarray) -> Archs:
    return jax.tree.map(lambda x: x[chosen], archs)
